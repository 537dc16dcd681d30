//! The JSON Schema of recipes, for editors, for the reference and for messages: composed of the types that read a recipe,
//! and of the options that each method and each objective says that it has.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use train::TrainConfig;

use super::{ClassificationHead, DataConfig, ModelConfig, OBJECTIVES, ReportConfig};
use crate::METHODS;
use models::experts::RouterOptions;

/// The schema, as an object of JSON Schema draft 7.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let methods: Vec<Value> = METHODS
        .iter()
        .map(|method| kind(method.kind, method.summary, (method.schema)(&mut generator)))
        .collect();
    let objectives: Vec<Value> = OBJECTIVES
        .iter()
        .map(|objective| kind(objective.kind, objective.summary, (objective.schema)(&mut generator)))
        .collect();
    let head = ClassificationHead::json_schema(&mut generator);
    let head = kind("classification", "A class a document", head);
    let sections = json!({
        "model": section::<ModelConfig>(&mut generator, "The model that is trained"),
        "surgery": {
            "description": "The changes to it, in the order in which they are applied.",
            "type": "array",
            "minItems": 1,
            "items": { "oneOf": methods },
        },
        "head": head,
        "router": section::<RouterOptions>(&mut generator, "How experts are chosen, and their load is balanced"),
        "objective": { "description": "What training minimises.", "oneOf": objectives },
        "data": section::<DataConfig>(&mut generator, "The data"),
        "train": section::<TrainConfig>(&mut generator, "The training options"),
        "report": section::<ReportConfig>(&mut generator, "What the report shows in addition to the curves"),
    });
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of `finetune train`",
        "type": "object",
        "properties": sections,
        "required": ["model", "surgery", "objective", "data"],
        "additionalProperties": false,
        "definitions": generator.take_definitions(true),
    });
    ::recipe::name_aliases(&mut schema);
    schema
}

fn section<T: JsonSchema>(generator: &mut SchemaGenerator, about: &str) -> Value {
    let mut value = Value::from(T::json_schema(generator));
    value["description"] = json!(format!("{about}."));
    value
}

/// The table of a kind: its options, and the key that names it.
fn kind(kind: &str, about: &str, options: Schema) -> Value {
    let mut table = Value::from(options);
    table["title"] = json!(kind);
    table["description"] = json!(format!("{about}."));
    table["type"] = json!("object");
    table["additionalProperties"] = json!(false);
    let mut properties = Map::new();
    properties.insert("kind".into(), json!({ "const": kind }));
    if let Some(Value::Object(own)) = table.get_mut("properties").map(Value::take) {
        properties.extend(own);
    }
    table["properties"] = properties.into();
    let mut required = vec![json!("kind")];
    required.extend(table["required"].as_array().cloned().unwrap_or_default());
    table["required"] = required.into();
    table
}
