#!/bin/sh
# A thermostat that speaks MQTT as many do, for trying the example without one:
#
#   thermostat.sh NAME [options of the mosquitto clients, such as -h HOST -u USER -P PASSWORD]
#
# It says {"temperature": 19.5, "setpoint": 20, "heating": "ON"} on thermostat/NAME every two seconds, takes
# {"setpoint": 21} on thermostat/NAME/set, and says on thermostat/NAME/availability whether it is there.
# Temperatures are kept in tenths: the shell has whole numbers only.
set -eu
name=$1
shift
base=thermostat/$name
setpoint=200
temperature=185

degrees() { echo "$(($1 / 10)).$(($1 % 10))"; }
present() { mosquitto_pub "$@" -q 1 -r -t "$base/availability" -m "$state"; }

trap 'state=offline; present "$@"; exit 0' TERM INT
state=online
present "$@"
while true; do
  if [ "$temperature" -lt "$setpoint" ]; then
    heating=ON temperature=$((temperature + 5))
  else
    heating=OFF temperature=$((temperature - 2))
  fi
  values="{\"temperature\": $(degrees "$temperature"), \"setpoint\": $(degrees "$setpoint"), \"heating\": \"$heating\"}"
  # Says its values and waits two seconds for an order; one that comes between two waits is sent again.
  order=$(mosquitto_rr "$@" -q 1 -t "$base" -m "$values" -e "$base/set" -W 2 2>/dev/null || true)
  wanted=$(echo "$order" | sed -n 's/.*"setpoint": *\([0-9]*\)\(\.\([0-9]\)\)\{0,1\}.*/\1 \3/p')
  if [ -n "$wanted" ]; then
    setpoint=$((${wanted% *} * 10 + 0${wanted#* }))
    echo "set to $(degrees "$setpoint")"
  else
    # The broker may be away: not too often then.
    sleep 0.2
  fi
done
