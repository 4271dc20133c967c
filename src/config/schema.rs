//! The JSON Schema (2020-12) of the language, from the same declarations that read it.
//!
//! What is not supported is not in it: an editor that knows the schema never proposes a key that the proxy refuses.

use serde_json::{Value as Json, json};

use super::Support;
use super::file::File;
use super::file::term::{Scope, Term};

/// The schema of what `support` accepts.
#[must_use]
pub fn schema(support: Support) -> Json {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Roundel configuration",
    });
    if let (Json::Object(schema), Json::Object(file)) =
        (&mut schema, File::describe(&Scope { path: String::new(), support }))
    {
        schema.extend(file);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_a_valid_schema() {
        for support in [Support::Built, Support::Everything] {
            jsonschema::meta::validate(&schema(support)).unwrap();
        }
    }

    #[test]
    fn a_default_in_the_schema_is_the_default_of_the_program() {
        let schema = schema(Support::Everything);
        let listener = &schema["properties"]["listeners"]["items"]["properties"];
        assert_eq!(listener["timeouts"]["properties"]["keepalive"]["default"], "1m15s");
        assert_eq!(listener["limits"]["properties"]["header_bytes"]["default"], "32KiB");
        assert_eq!(listener["max_connections"]["default"], 20_000);
    }

    #[test]
    fn what_is_refused_is_not_proposed() {
        let properties = &schema(Support::Built)["properties"];
        assert!(properties["server"]["properties"].get("max_retries").is_none());
        assert!(schema(Support::Everything)["properties"]["server"]["properties"].get("max_retries").is_some());
    }
}
