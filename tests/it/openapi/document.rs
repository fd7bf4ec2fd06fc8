//! `/openapi.json` as tests read it: its operations, where its references lead, and what of an answer is not as it says.
//!
//! It knows the part of JSON Schema that the document uses, and panics at any other word. In one thing it is stricter
//! than JSON Schema: a member of an answer that the document does not name is a fault.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::harness::http::{Answer, Http};

/// Headers that an answer has only where the document says so.
const DOCUMENTED_HEADERS: [&str; 8] = [
    "accept-encoding",
    "allow",
    "content-security-policy",
    "geotrail-index",
    "location",
    "referrer-policy",
    "retry-after",
    "www-authenticate",
];

/// The document.
pub(super) struct Document(pub(super) Value);

/// A method of a path.
pub(super) struct Operation<'a> {
    pub(super) method: String,
    pub(super) path: &'a str,
    item: &'a Value,
    pub(super) said: &'a Value,
}

impl Document {
    pub(super) async fn of(service: &Http) -> Self {
        let answer = service.get("/openapi.json").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        Self(answer.json())
    }

    pub(super) fn operations(&self) -> Vec<Operation<'_>> {
        let mut all = Vec::new();
        for (path, item) in self.0["paths"].as_object().expect("paths") {
            let methods = item.as_object().expect("methods").iter().filter(|(name, _)| name.as_str() != "parameters");
            all.extend(methods.map(|(method, said)| Operation { method: method.to_uppercase(), path, item, said }));
        }
        all
    }

    fn operation(&self, method: &str, path: &str) -> Operation<'_> {
        let found = self.operations().into_iter().find(|one| one.method == method && one.path == path);
        found.unwrap_or_else(|| panic!("{method} {path} is not documented"))
    }

    /// What a reference names.
    pub(super) fn target(&self, reference: &str) -> &Value {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// What `node` is, or refers to.
    pub(super) fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(reference) => self.resolved(self.target(reference)),
            None => node,
        }
    }

    /// The parameters of an operation that stand in its path, its query or its head.
    pub(super) fn parameters<'a>(&'a self, operation: &Operation<'a>, place: &str) -> Vec<&'a Value> {
        let (of_path, own) = (&operation.item["parameters"], &operation.said["parameters"]);
        let all = list(of_path).chain(list(own)).map(|parameter| self.resolved(parameter));
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    /// The codes that the schema of a problem leaves open.
    pub(super) fn codes<'a>(&'a self, schema: &'a Value) -> BTreeSet<&'a str> {
        let code = &schema["properties"]["code"];
        let own = list(&code["enum"]).chain(code.get("const")).filter_map(Value::as_str);
        let parts = list(&schema["allOf"]).chain(list(&schema["anyOf"]));
        let parts = parts.chain(schema["$ref"].as_str().map(|reference| self.target(reference)));
        own.chain(parts.flat_map(|part| self.codes(part))).collect()
    }

    /// What of an answer is not as the document says.
    pub(super) fn faults_of(&self, method: &str, path: &str, answer: &Answer) -> Vec<String> {
        let operation = self.operation(method, path);
        let Some(response) = operation.said["responses"].get(answer.status.to_string()) else {
            return vec![format!("{} is not documented", answer.status)];
        };
        let response = self.resolved(response);
        let mut faults = self.faults_of_headers(response, answer);
        let media_type = answer.header("content-type");
        match response.get("content") {
            None if answer.body.is_empty() => {}
            None => faults.push("a body is not documented".into()),
            Some(content) => match content.get(media_type) {
                None => faults.push(format!("{media_type:?} is not documented")),
                Some(form) => {
                    for value in values(media_type, answer) {
                        self.check(&form["schema"], &value, "", &mut faults);
                    }
                }
            },
        }
        faults
    }

    fn faults_of_headers(&self, response: &Value, answer: &Answer) -> Vec<String> {
        let documented: Vec<(&String, &Value)> = response["headers"].as_object().into_iter().flatten().collect();
        let mut faults = Vec::new();
        for name in DOCUMENTED_HEADERS.iter().filter(|name| answer.headers.contains_key(**name)) {
            if !documented.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                faults.push(format!("the header {name} is not documented"));
            }
        }
        for (name, header) in documented {
            let header = self.resolved(header);
            let sent = answer.header(name);
            if !sent.is_empty() {
                let value = sent.parse::<u64>().map_or_else(|_| Value::from(sent), Value::from);
                self.check(&header["schema"], &value, name, &mut faults);
            } else if header["required"] == true {
                faults.push(format!("the header {name} is missing"));
            }
        }
        faults
    }

    /// What of `value` is not as `schema` says.
    pub(super) fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        self.conform(schema, value, at, faults);
        let mut named = BTreeSet::new();
        let is_open = self.name_members(schema, value, &mut named) || schema.as_object().is_some_and(Map::is_empty);
        if let (Value::Object(members), false) = (value, is_open) {
            let unnamed = members.keys().filter(|name| !named.contains(name.as_str()));
            faults.extend(unnamed.map(|name| format!("{at}/{name} is not documented")));
        }
    }

    /// As JSON Schema has it; but of members, as [`Self::check`] has it.
    fn conform(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        for (keyword, said) in schema.as_object().expect("a schema") {
            match keyword.as_str() {
                "$ref" => self.conform(self.target(said.as_str().expect("a reference")), value, at, faults),
                "allOf" => list(said).for_each(|part| self.conform(part, value, at, faults)),
                "anyOf" if list(said).any(|one| self.conforms(one, value)) => {}
                "anyOf" => faults.push(format!("{at} is none of what it may be")),
                "required" => {
                    let names = list(said).filter_map(Value::as_str);
                    let missing = names.filter(|name| value.is_object() && value.get(name).is_none());
                    faults.extend(missing.map(|name| format!("{at}/{name} is missing")));
                }
                "properties" => {
                    for (name, schema) in said.as_object().expect("members") {
                        if let Some(member) = value.get(name) {
                            self.check(schema, member, &format!("{at}/{name}"), faults);
                        }
                    }
                }
                "additionalProperties" if said.is_object() => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if schema["properties"].get(name).is_none() {
                            self.check(said, member, &format!("{at}/{name}"), faults);
                        }
                    }
                }
                "items" => {
                    for (index, element) in list(value).enumerate() {
                        self.check(said, element, &format!("{at}/{index}"), faults);
                    }
                }
                keyword if breaks(keyword, said, value) => faults.push(format!("{at} breaks `{keyword}`")),
                _ => {}
            }
        }
    }

    fn conforms(&self, schema: &Value, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.conform(schema, value, "", &mut faults);
        faults.is_empty()
    }

    /// Collects the members that the schema names; whether it leaves open what others there are.
    fn name_members<'a>(&'a self, schema: &'a Value, value: &Value, named: &mut BTreeSet<&'a str>) -> bool {
        let own = schema["properties"].as_object().into_iter().flatten();
        named.extend(own.map(|(name, _)| name.as_str()));
        let one_of = list(&schema["anyOf"]).filter(|one| self.conforms(one, value));
        let parts = list(&schema["allOf"]).chain(one_of);
        let parts = parts.chain(schema["$ref"].as_str().map(|reference| self.target(reference)));
        let mut is_open = schema["additionalProperties"].is_object();
        for part in parts {
            is_open |= self.name_members(part, value, named);
        }
        is_open
    }
}

/// The elements of an array; none of what is no array.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The values in a body: one, or one a line.
fn values(media_type: &str, answer: &Answer) -> Vec<Value> {
    match media_type {
        "application/x-ndjson" => answer.lines(),
        json if json.ends_with("json") => vec![answer.json()],
        _ => vec![Value::from(String::from_utf8(answer.body.clone()).expect("text"))],
    }
}

/// Whether `value` is not as a keyword says that needs no other schema.
fn breaks(keyword: &str, said: &Value, value: &Value) -> bool {
    let number = value.as_f64().zip(said.as_f64());
    let length = value.as_array().map(Vec::len).zip(said.as_u64().map(|limit| limit as usize));
    match keyword {
        "type" => {
            !said.as_str().into_iter().chain(list(said).filter_map(Value::as_str)).any(|name| is_a(name, value))
        }
        "const" => value != said,
        "enum" => !list(said).any(|one| one == value),
        "minimum" => number.is_some_and(|(number, limit)| number < limit),
        "maximum" => number.is_some_and(|(number, limit)| number > limit),
        "exclusiveMinimum" => number.is_some_and(|(number, limit)| number <= limit),
        "exclusiveMaximum" => number.is_some_and(|(number, limit)| number >= limit),
        "minItems" => length.is_some_and(|(length, limit)| length < limit),
        "maxItems" => length.is_some_and(|(length, limit)| length > limit),
        // What is looked at elsewhere, or is for people.
        "additionalProperties" | "minProperties" | "format" | "pattern" | "description" | "default" | "examples" => {
            false
        }
        other => panic!("what does `{other}` mean?"),
    }
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("what is `{other}`?"),
    }
}
