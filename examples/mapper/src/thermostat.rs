//! The device: a room that warms or cools by a tenth of a degree until it is as it should be.

/// A thermostat and its room.
pub(crate) struct Thermostat {
    /// What it should be.
    target: f64,
    /// What it is.
    temperature: f64,
    /// How often it was read.
    reads: u64,
}

impl Thermostat {
    /// A cold room.
    pub(crate) const fn new() -> Self {
        Self {
            target: 20.0,
            temperature: 18.0,
            reads: 0,
        }
    }

    /// Writes a property. What is not there to be written changes nothing.
    pub(crate) fn write(&mut self, property: &str, value: &str) {
        if let ("target", Ok(target)) = (property, value.parse()) {
            self.target = target;
        }
    }

    /// Reads every property.
    pub(crate) fn read(&mut self) -> Vec<(&'static str, String)> {
        self.reads += 1;
        self.temperature += (self.target - self.temperature).clamp(-0.1, 0.1);
        vec![
            ("temperature", format!("{:.1}", self.temperature)),
            ("target", self.target.to_string()),
            ("reads", self.reads.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_becomes_as_warm_as_it_should_be() {
        let mut thermostat = Thermostat::new();
        thermostat.write("target", "18.3");
        thermostat.write("temperature", "99");
        thermostat.write("target", "warm");
        for _ in 0..9 {
            thermostat.read();
        }
        let last = thermostat.read();
        let value = |text: &str| text.to_owned();
        assert_eq!(
            last,
            [
                ("temperature", value("18.3")),
                ("target", value("18.3")),
                ("reads", value("10"))
            ]
        );
    }
}
