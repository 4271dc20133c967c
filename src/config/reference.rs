//! The reference page of the manual, `docs/configuration.md`, rendered from the schema: the program cannot say one thing
//! and the manual another.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::Support;
use super::schema::schema;

/// What the page begins with.
const INTRODUCTION: &str = include_str!("reference.md");

/// The page, in Markdown.
#[must_use]
pub fn render(support: Support) -> String {
    let schema = schema(support);
    let mut page = INTRODUCTION.to_owned();
    let Some(properties) = schema["properties"].as_object() else { return page };
    let is_section = |schema: &Json| section(schema, "").is_some();
    let alone: Map<String, Json> = properties
        .iter()
        .filter(|(_, schema)| !is_section(schema))
        .map(|(key, schema)| (key.clone(), schema.clone()))
        .collect();
    let _ = writeln!(page, "\n## At the top level\n");
    table(&mut page, "", &alone);
    for (key, schema) in properties.iter().filter(|(_, schema)| is_section(schema)) {
        chapter(&mut page, key, schema, 2);
    }
    page
}

fn chapter(page: &mut String, path: &str, schema: &Json, level: usize) {
    let Some((path, properties)) = section(schema, path) else { return };
    let heading = "#".repeat(level.min(4));
    let about = schema["description"].as_str().unwrap_or_default();
    let _ = writeln!(page, "\n{heading} `{path}`\n\n{about}\n");
    table(page, &path, properties);
    for (key, schema) in properties {
        chapter(page, &format!("{path}.{key}"), schema, level + 1);
    }
}

/// The keys of the section that a schema holds, and the path to them: through lists (`[]`) and names (`.NAME`).
fn section<'s>(schema: &'s Json, path: &str) -> Option<(String, &'s Map<String, Json>)> {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().find_map(|one| section(one, path));
    }
    if let Some(properties) = schema["properties"].as_object() {
        // `{ type: none }` turns a section off; it is not one.
        return (!properties.values().any(|key| key["const"] == "none")).then(|| (path.to_owned(), properties));
    }
    match schema["type"].as_str() {
        Some("array") => section(&schema["items"], &format!("{path}[]")),
        Some("object") => section(&schema["additionalProperties"], &format!("{path}.NAME")),
        _ => None,
    }
}

fn table(page: &mut String, path: &str, properties: &Map<String, Json>) {
    let _ = writeln!(page, "| key | value | default | effect |\n| --- | --- | --- | --- |");
    for (key, schema) in properties {
        let inside = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = match section(schema, &inside) {
            Some((path, _)) => format!("see `{path}`"),
            None => kind(schema),
        };
        let default = match &schema["default"] {
            Json::Null => String::new(),
            Json::String(text) if text.is_empty() => "empty".to_owned(),
            Json::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let about = schema["description"].as_str().unwrap_or_default();
        let cells = [format!("`{key}`"), value, default, about.to_owned()].map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// A few words for what may stand after a key.
fn kind(schema: &Json) -> String {
    if let Some(title) = schema["title"].as_str() {
        return title.to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            .map(|word| format!("`{}`", word.as_str().map_or_else(|| word.to_string(), str::to_owned)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let mut kinds: Vec<String> = any.iter().filter(|one| one["properties"].is_null()).map(kind).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list: {}", kind(&schema["items"])),
        Some("object") => format!("by name: {}", kind(&schema["additionalProperties"])),
        _ => String::new(),
    }
}
