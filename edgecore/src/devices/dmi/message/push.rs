//! `pushMethod` as mappers are told of it: the same settings under other names.

use protocol::devices::{
    DbMethod, Influxdb2, Mysql, PushHttp, PushMethod, PushMqtt, PushOtel, Redis, TdEngine,
};
use protocol::dmi;

use super::values;

pub(super) fn method(push: &PushMethod) -> dmi::PushMethod {
    dmi::PushMethod {
        http: push.http.as_ref().map(http),
        mqtt: push.mqtt.as_ref().map(mqtt),
        db_method: push.db_method.as_ref().map(database),
        otel: push.otel.as_ref().map(otel),
        anomaly_detection: push
            .anomaly_detection
            .as_ref()
            .map(|free| dmi::AnomalyDetection { data: values(free) }),
    }
}

fn http(push: &PushHttp) -> dmi::PushMethodHttp {
    dmi::PushMethodHttp {
        hostname: text(push.host_name.as_ref()),
        port: push.port.unwrap_or_default(),
        requestpath: text(push.request_path.as_ref()),
        timeout: push.timeout.unwrap_or_default(),
    }
}

fn mqtt(push: &PushMqtt) -> dmi::PushMethodMqtt {
    dmi::PushMethodMqtt {
        address: text(push.address.as_ref()),
        topic: text(push.topic.as_ref()),
        qos: push.qos.unwrap_or_default(),
        retained: push.retained.unwrap_or_default(),
    }
}

fn otel(push: &PushOtel) -> dmi::PushMethodOtel {
    dmi::PushMethodOtel {
        endpoint_url: text(push.endpoint_url.as_ref()),
    }
}

fn database(push: &DbMethod) -> dmi::DbMethod {
    dmi::DbMethod {
        influxdb2: push.influxdb2.as_ref().map(influxdb2),
        redis: push.redis.as_ref().map(redis),
        tdengine: push.td_engine.as_ref().map(td_engine),
        mysql: push.mysql.as_ref().map(mysql),
    }
}

fn influxdb2(push: &Influxdb2) -> dmi::DbMethodInfluxdb2 {
    let client = push.influxdb2_client_config.clone().unwrap_or_default();
    let data = push.influxdb2_data_config.clone().unwrap_or_default();
    dmi::DbMethodInfluxdb2 {
        influxdb2_client_config: Some(dmi::Influxdb2ClientConfig {
            url: client.url.unwrap_or_default(),
            org: client.org.unwrap_or_default(),
            bucket: client.bucket.unwrap_or_default(),
        }),
        influxdb2_data_config: Some(dmi::Influxdb2DataConfig {
            measurement: data.measurement.unwrap_or_default(),
            tag: data.tag.unwrap_or_default(),
            field_key: data.field_key.unwrap_or_default(),
        }),
    }
}

fn redis(push: &Redis) -> dmi::DbMethodRedis {
    let client = push.redis_client_config.clone().unwrap_or_default();
    dmi::DbMethodRedis {
        redis_client_config: Some(dmi::RedisClientConfig {
            addr: client.addr.unwrap_or_default(),
            db: client.db.unwrap_or_default(),
            poolsize: client.poolsize.unwrap_or_default(),
            min_idle_conns: client.min_idle_conns.unwrap_or_default(),
        }),
    }
}

fn td_engine(push: &TdEngine) -> dmi::DbMethodTdEngine {
    let client = push.td_engine_client_config.clone().unwrap_or_default();
    dmi::DbMethodTdEngine {
        td_engine_client_config: Some(dmi::TdEngineClientConfig {
            addr: client.addr.unwrap_or_default(),
            dbname: client.db_name.unwrap_or_default(),
        }),
    }
}

fn mysql(push: &Mysql) -> dmi::DbMethodMySql {
    let client = push.mysql_client_config.clone().unwrap_or_default();
    dmi::DbMethodMySql {
        mysql_client_config: Some(dmi::MySqlClientConfig {
            addr: client.addr.unwrap_or_default(),
            database: client.database.unwrap_or_default(),
            user_name: client.user_name.unwrap_or_default(),
        }),
    }
}

fn text(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}
