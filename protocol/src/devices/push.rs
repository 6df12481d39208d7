//! `pushMethod`: where a mapper sends values besides the cluster. Carried to mappers as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FreeForm;

macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name {
            $(
                $(#[$field_attribute])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }
    };
}

settings! {
    /// Where a mapper sends values besides the cluster.
    PushMethod {
        /// To an HTTP server.
        http: PushHttp,
        /// To an MQTT broker.
        mqtt: PushMqtt,
        /// To an OpenTelemetry collector.
        otel: PushOtel,
        /// Into a database.
        db_method: DbMethod,
        /// Settings of a mapper's detection of anomalies.
        anomaly_detection: FreeForm,
    }
}

settings! {
    /// To an HTTP server.
    PushHttp {
        /// The host.
        host_name: String,
        /// The port.
        port: i64,
        /// The path.
        request_path: String,
        /// How long a request may take.
        timeout: i64,
    }
}

settings! {
    /// To an MQTT broker.
    PushMqtt {
        /// The broker.
        address: String,
        /// The topic.
        topic: String,
        /// The quality of service.
        qos: i32,
        /// Whether the broker keeps the last value.
        retained: bool,
    }
}

settings! {
    /// To an OpenTelemetry collector.
    PushOtel {
        /// The collector.
        #[serde(rename = "endpointURL")]
        endpoint_url: String,
    }
}

settings! {
    /// Into a database.
    DbMethod {
        /// InfluxDB 2.
        influxdb2: Influxdb2,
        /// Redis.
        redis: Redis,
        /// TDengine.
        #[serde(rename = "TDEngine")]
        td_engine: TdEngine,
        /// MySQL.
        mysql: Mysql,
    }
}

settings! {
    /// InfluxDB 2.
    Influxdb2 {
        /// The server.
        influxdb2_client_config: Influxdb2Client,
        /// What is written.
        influxdb2_data_config: Influxdb2Data,
    }
}

settings! {
    /// An InfluxDB server.
    Influxdb2Client {
        /// Its address.
        url: String,
        /// The organisation.
        org: String,
        /// The bucket.
        bucket: String,
    }
}

settings! {
    /// What is written into InfluxDB.
    Influxdb2Data {
        /// The measurement.
        measurement: String,
        /// Its tags.
        tag: BTreeMap<String, String>,
        /// The field.
        field_key: String,
    }
}

settings! {
    /// Redis.
    Redis {
        /// The server.
        redis_client_config: RedisClient,
    }
}

settings! {
    /// A Redis server.
    RedisClient {
        /// Its address.
        addr: String,
        /// The database's number.
        db: i32,
        /// The most connections.
        poolsize: i32,
        /// The least idle connections.
        min_idle_conns: i32,
    }
}

settings! {
    /// TDengine.
    TdEngine {
        /// The server.
        #[serde(rename = "TDEngineClientConfig")]
        td_engine_client_config: TdEngineClient,
    }
}

settings! {
    /// A TDengine server.
    TdEngineClient {
        /// Its address.
        addr: String,
        /// The database.
        db_name: String,
    }
}

settings! {
    /// MySQL.
    Mysql {
        /// The server.
        mysql_client_config: MysqlClient,
    }
}

settings! {
    /// A MySQL server.
    MysqlClient {
        /// Its address.
        addr: String,
        /// The database.
        database: String,
        /// The user.
        user_name: String,
    }
}
