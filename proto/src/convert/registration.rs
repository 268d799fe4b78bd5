//! Registering: request, reply, application, shared files.

use std::collections::BTreeMap;

use millstream_common::protocol::{Application, RegisterReply, RegisterRequest, SharedFile};
use serde_json::Value;

use super::{ConversionError, ids, json_text, parse_json, require, wire_all};
use crate::pb;

impl From<RegisterRequest> for pb::RegisterRequest {
    fn from(request: RegisterRequest) -> Self {
        Self {
            protocol: request.protocol,
            version: request.version,
            build_id: request.build_id,
            cores: request.cores,
            block_address: request.block_address,
            http_address: request.http_address,
            process_id: request.process_id,
            host: request.host,
        }
    }
}

impl From<pb::RegisterRequest> for RegisterRequest {
    fn from(request: pb::RegisterRequest) -> Self {
        Self {
            protocol: request.protocol,
            version: request.version,
            build_id: request.build_id,
            cores: request.cores,
            block_address: request.block_address,
            http_address: request.http_address,
            process_id: request.process_id,
            host: request.host,
        }
    }
}

impl From<RegisterReply> for pb::RegisterReply {
    fn from(reply: RegisterReply) -> Self {
        Self {
            executor: ids::wire_executor(reply.executor),
            application: Some(reply.application.into()),
            shared_files: wire_all(reply.shared_files),
            // The server's affair.
            asked_for_secret: false,
        }
    }
}

impl TryFrom<pb::RegisterReply> for RegisterReply {
    type Error = ConversionError;

    fn try_from(reply: pb::RegisterReply) -> Result<Self, ConversionError> {
        Ok(Self {
            executor: ids::executor(&reply.executor, "RegisterReply", "executor")?,
            application: require(reply.application, "RegisterReply", "application")?.try_into()?,
            shared_files: wire_all(reply.shared_files),
        })
    }
}

impl From<Application> for pb::Application {
    fn from(application: Application) -> Self {
        let recorded_json = application
            .recorded
            .iter()
            .map(|(name, value)| (name.clone(), json_text(value)))
            .collect();
        Self {
            name: application.name,
            arguments_json: json_text(&application.arguments),
            configuration: application.configuration,
            parallelism: application.parallelism,
            batch_interval_millis: application.batch_interval_millis,
            build_id: application.build_id,
            recorded_json,
        }
    }
}

impl TryFrom<pb::Application> for Application {
    type Error = ConversionError;

    fn try_from(application: pb::Application) -> Result<Self, ConversionError> {
        let mut recorded: BTreeMap<String, Value> = BTreeMap::new();
        for (name, text) in application.recorded_json {
            let value = parse_json(&text, "Application", "recorded_json")?;
            recorded.insert(name, value);
        }
        Ok(Self {
            name: application.name,
            arguments: parse_json(&application.arguments_json, "Application", "arguments_json")?,
            configuration: application.configuration,
            parallelism: application.parallelism,
            batch_interval_millis: application.batch_interval_millis,
            build_id: application.build_id,
            recorded,
        })
    }
}

impl From<SharedFile> for pb::SharedFile {
    fn from(file: SharedFile) -> Self {
        Self {
            path: file.path,
            nonce: file.nonce,
            purpose: file.purpose,
        }
    }
}

impl From<pb::SharedFile> for SharedFile {
    fn from(file: pb::SharedFile) -> Self {
        Self {
            path: file.path,
            nonce: file.nonce,
            purpose: file.purpose,
        }
    }
}
