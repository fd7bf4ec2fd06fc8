//! What the service says of itself: `/openapi.json`, held to the table of routes and to what a running service takes and
//! answers; and `/docs`, the page to read it.

mod document;
mod refused;
mod served;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use geotrail::http::{Access, table};
use geotrail::model::Defect;
use geotrail::telemetry::STORE_STATES;
use reqwest::StatusCode;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::process::{Process, geotrail};
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, now_ms};
use document::{Document, Operation, list};
use served::{JSON, Served, name_of, spelled, with_query};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_documented_can_be_asked() {
    let served = Served::start().await;
    let all = served.document.operations();
    let names_of = |operation: &Operation| -> BTreeSet<String> {
        let parameters = served.document.parameters(operation, "query").into_iter();
        parameters.map(|parameter| name_of(parameter).to_owned()).collect()
    };
    // What one operation takes another may take unsaid.
    let mut tried: BTreeSet<String> = all.iter().flat_map(names_of).collect();
    tried.extend(["x", "lats", "Limit", "max_age", "format"].map(str::to_owned));
    assert!(tried.len() > 15, "{tried:?}");
    for operation in &all {
        let (method, path) = (operation.method.as_str(), served.path(operation.path));
        let documented = names_of(operation);
        for name in tried.difference(&documented) {
            let answer = served.ask(method, &format!("{path}?{name}=1"), &[], "").await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "unknown_parameter"), "{method} {path} {name}");
            served.check(method, operation.path, &answer);
            // The nearest that the service knows.
            let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
            let hint = detail.split('`').nth(1);
            assert!(
                hint.map_or(documented.is_empty(), |hint| documented.contains(hint)),
                "{method} {path}: {detail}"
            );
        }
        for parameter in served.document.parameters(operation, "query") {
            let mut query = served.required(operation);
            query.retain(|(name, _)| *name != name_of(parameter));
            query.push((name_of(parameter), served.given(parameter)));
            let answer = served.ask(method, &with_query(&path, &query), &[], "").await;
            assert_ne!(answer.code(), "unknown_parameter", "{method} {path} {query:?}");
            served.check(method, operation.path, &answer);
        }
    }
}

/// Values of a parameter that the document allows, and such as it does not.
fn edges(schema: &Value) -> (Vec<String>, Vec<String>) {
    let is_whole = schema["type"] == "integer";
    // A whole number is written without a point.
    let spell = |number: f64| if is_whole { format!("{number:.0}") } else { number.to_string() };
    let step = |limit: f64| if is_whole { 1.0 } else { (limit.abs() * 1e-9).max(1e-9) };
    let limit = |keyword: &str| schema[keyword].as_f64();
    let (mut within, mut beyond) = (Vec::new(), Vec::new());
    if let Some(least) = limit("minimum") {
        within.push(spell(least));
        beyond.push(spell(least - step(least)));
    }
    if let Some(bound) = limit("exclusiveMinimum") {
        within.push(spell(bound + step(bound)));
        beyond.push(spell(bound));
    }
    if let Some(most) = limit("maximum") {
        within.push(spell(most));
        beyond.push(spell(most + step(most)));
    }
    if !within.is_empty() {
        beyond.extend(["x", "", "NaN"].map(str::to_owned));
    }
    if is_whole {
        beyond.push("1.5".into());
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        within.push(vec!["a"; most as usize].join(","));
        beyond.push(vec!["a"; most as usize + 1].join(","));
        beyond.extend(["A".to_owned(), "a".repeat(33)]);
    }
    if schema["enum"].is_array() {
        within.extend(list(&schema["enum"]).map(spelled));
        beyond.extend(["x", ""].map(str::to_owned));
    }
    if schema["pattern"] == "^[0-9]{10}$" {
        within.push("2026112219".into());
        beyond.extend(["202611221", "20261122190", "2026-11-22", ""].map(str::to_owned));
    }
    if schema["anyOf"].is_array() {
        within.extend(["2001-09-09T02:46:40+01:00", "2001-09-09T01:46:40.123Z", "1000000000123"].map(str::to_owned));
        beyond.extend(["2001-09-09T01:46:40", "2001-09-09", "1.5", ""].map(str::to_owned));
    }
    (within, beyond)
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_are_where_the_document_says() {
    let served = Served::start().await;
    let mut tried = BTreeSet::new();
    for operation in served.document.operations().iter().filter(|operation| operation.method == "GET") {
        for parameter in served.document.parameters(operation, "query") {
            let name = name_of(parameter);
            let (within, beyond) = edges(served.document.resolved(&parameter["schema"]));
            let answer = async |value: &str| {
                let mut query = served.required(operation);
                query.retain(|(other, _)| *other != name);
                query.push((name, value.to_owned()));
                if name == "to" {
                    // By default the span begins an hour ago.
                    query.push(("from", "0".into()));
                }
                let answer = served.service.get(&with_query(&served.path(operation.path), &query)).await;
                served.check("GET", operation.path, &answer);
                answer
            };
            for value in &within {
                let answer = answer(value.as_str()).await;
                assert_ne!(answer.status, 400, "{} {name}={value}: {:?}", operation.path, answer.json());
            }
            for value in &beyond {
                let answer = answer(value.as_str()).await;
                let told = (answer.status, answer.code());
                assert_eq!(told, (400, "invalid_parameter".into()), "{} {name}={value}", operation.path);
            }
            if !beyond.is_empty() {
                tried.insert(name.to_owned());
            }
        }
    }
    // Nothing is left but the cursor, which is what an answer says it is.
    assert_eq!(tried.len(), 11, "{tried:?}");
}

/// Takes out what is another by the time it is asked again.
fn without_ages(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("age_s");
            members.values_mut().for_each(without_ages);
        }
        Value::Array(all) => all.iter_mut().for_each(without_ages),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_what_the_document_says() {
    let served = Served::start().await;
    served.report_fleet().await;
    let mut tried = 0;
    for operation in served.document.operations().iter().filter(|operation| operation.method == "GET") {
        let parameters = served.document.parameters(operation, "query");
        for parameter in &parameters {
            let (name, schema) = (name_of(parameter), served.document.resolved(&parameter["schema"]));
            let Some(default) = schema["default"].as_u64() else { continue };
            let ask = async |value: Option<u64>| {
                let mut query = served.required(operation);
                if name != "limit" && parameters.iter().any(|other| name_of(other) == "limit") {
                    query.push(("limit", "1000".into()));
                }
                query.extend(value.map(|value| (name, value.to_string())));
                let mut answer = served.service.get(&with_query(&served.path(operation.path), &query)).await.json();
                without_ages(&mut answer);
                answer
            };
            let untold = ask(None).await;
            assert_eq!(untold, ask(Some(default)).await, "{} {name}", operation.path);
            assert_ne!(
                untold,
                ask(Some(default * 9 / 10)).await,
                "{} {name}: else this shows nothing",
                operation.path
            );
            tried += 1;
        }
    }
    assert_eq!(tried, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_is_documented_with_its_status() {
    let source = |file: &str| -> String {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source");
        text.split("#[cfg(test)]").next().unwrap_or_default().split_whitespace().collect()
    };
    let quoted = |text: &str| text.split('"').next().unwrap_or_default().to_owned();
    // `(StatusCode::NOT_FOUND, "not_found", …`
    let given: BTreeSet<(u16, String)> = source("src/http/problem.rs")
        .split("(StatusCode::")
        .skip(1)
        .filter_map(|rest| rest.split_once(",\""))
        .map(|(status, rest)| (status_of(status), quoted(rest)))
        .collect();
    // `Self::EmptyBatch => "empty_batch"`
    let of_envelope: BTreeSet<String> = source("src/http/points/mod.rs").split("=>\"").skip(1).map(quoted).collect();
    assert!(given.len() > 25 && of_envelope.len() == 7, "{given:?} {of_envelope:?}");
    let all: BTreeSet<String> = given.iter().map(|(_, code)| code.clone()).chain(of_envelope.clone()).collect();

    let Served { document, .. } = &Served::start().await;
    let enumerated = |schema: &str| -> BTreeSet<String> {
        list(&document.0["components"]["schemas"][schema]["enum"]).map(spelled).collect()
    };
    assert_eq!(enumerated("ProblemCode"), all);
    assert_eq!(enumerated("PointCode"), BTreeSet::from(Defect::CODES.map(str::to_owned)));
    assert_eq!(enumerated("StoreState"), BTreeSet::from(STORE_STATES.map(str::to_owned)));

    let mut documented = BTreeSet::new();
    for operation in document.operations() {
        for (status, response) in operation.said["responses"].as_object().expect("responses") {
            let response = document.resolved(response);
            if let Some(form) = response["content"].get("application/problem+json") {
                let codes = document.codes(&form["schema"]);
                assert!(!codes.is_empty(), "{} {status} names no code", operation.path);
                let status: u16 = status.parse().expect("a status");
                documented.extend(codes.into_iter().map(|code| (status, code.to_owned())));
            }
        }
    }
    // Of a method that a path does not take there is no operation.
    documented.insert((405, "method_not_allowed".to_owned()));
    for pair in &given {
        assert!(documented.contains(pair), "{pair:?} is not documented");
    }
    for (status, code) in &documented {
        let is_given = given.contains(&(*status, code.clone())) || of_envelope.contains(code);
        assert!(is_given, "{status} {code} is never given");
    }
    let documented: BTreeSet<String> = documented.into_iter().map(|(_, code)| code).collect();
    assert_eq!(documented, all);
}

/// The number of `NOT_FOUND`.
fn status_of(name: &str) -> u16 {
    let is_it = |status: &u16| {
        let reason = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        reason.is_some_and(|reason| reason.to_uppercase().replace([' ', '-'], "_") == name)
    };
    (100..600).find(is_it).unwrap_or_else(|| panic!("no status is called {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_documented_with_its_scope_and_nothing_else_is() {
    let Served { document, .. } = &Served::start().await;
    let routes: BTreeSet<(String, String, String)> = table()
        .map(|(method, path, access)| {
            let security = match access {
                Access::Free => json!([]),
                Access::Needs(scope) => json!([{ "key": [scope.word()] }]),
            };
            (method.to_string(), path.to_owned(), security.to_string())
        })
        .collect();
    let documented: BTreeSet<(String, String, String)> = document
        .operations()
        .into_iter()
        .map(|operation| (operation.method, operation.path.to_owned(), operation.said["security"].to_string()))
        .collect();
    assert_eq!(documented, routes);
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document.0["servers"], json!([{ "url": "/" }]));
    assert_eq!(document.0["components"]["securitySchemes"]["key"]["scheme"], "bearer");
}

fn references(node: &Value, into: &mut BTreeSet<String>) {
    match node {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, into));
        }
        Value::Array(all) => all.iter().for_each(|one| references(one, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_hangs_together() {
    let Served { document, .. } = &Served::start().await;
    let mut referred = BTreeSet::new();
    references(&document.0, &mut referred);
    for reference in &referred {
        assert!(document.target(reference).is_object(), "{reference}");
    }
    for (kind, named) in document.0["components"].as_object().expect("components") {
        for name in named.as_object().expect("names").keys().filter(|_| kind != "securitySchemes") {
            assert!(referred.contains(&format!("#/components/{kind}/{name}")), "nothing refers to {kind} {name}");
        }
    }
    let tags: Vec<&Value> = list(&document.0["tags"]).map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for operation in document.operations() {
        let id = operation.said["operationId"].as_str().expect("an id");
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        let own: Vec<&Value> = list(&operation.said["tags"]).collect();
        assert!(own.len() == 1 && tags.contains(&own[0]), "{id}: {own:?}");
        let in_path: BTreeSet<&str> = operation.path.split(['{', '}']).skip(1).step_by(2).collect();
        let parameters = document.parameters(&operation, "path");
        let declared: BTreeSet<&str> = parameters.iter().map(|parameter| name_of(parameter)).collect();
        assert_eq!(in_path, declared, "{id}");
        assert!(parameters.iter().all(|parameter| parameter["required"] == true), "{id}");
        // What serves as an example is one.
        for place in ["path", "query", "header"] {
            for parameter in document.parameters(&operation, place) {
                let schema = &parameter["schema"];
                for example in [parameter.get("example"), document.resolved(schema).get("default")] {
                    let faults = example.map(|example| document.faults(schema, example)).unwrap_or_default();
                    assert!(faults.is_empty(), "{id} {}: {faults:?}", name_of(parameter));
                }
            }
        }
        for (media_type, form) in operation.said["requestBody"]["content"].as_object().into_iter().flatten() {
            let faults = document.faults(&form["schema"], &form["example"]);
            assert!(faults.is_empty(), "{id} {media_type}: {faults:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_is_answered_as_documented() {
    let served = Served::start().await;
    served.report_fleet().await;
    let mut forms = 0;
    for operation in served.document.operations().iter().filter(|operation| operation.method == "GET") {
        let path = with_query(&served.path(operation.path), &served.required(operation));
        let response = served.document.resolved(&operation.said["responses"]["200"]);
        for media_type in response["content"].as_object().expect("forms").keys() {
            let answer = served.ask("GET", &path, &[("accept", media_type.as_str())], "").await;
            assert_eq!((answer.status, answer.header("content-type")), (200, media_type.as_str()), "{path}");
            assert!(answer.body.len() > 10, "{path}: an empty answer shows nothing");
            served.check("GET", operation.path, &answer);
            forms += 1;
        }
    }
    assert_eq!(forms, 28);
    let near = served.service.get("/v1/nearby?lat=39.7392&lon=-104.9903&limit=1").await.json();
    assert_eq!(
        near["drivers"][0].as_object().map(serde_json::Map::len),
        Some(10),
        "with all that may be known: {near}"
    );
    let erased = served.ask("DELETE", "/v1/drivers/cab:1", &[], "").await;
    assert_eq!(erased.status, 204);
    served.check("DELETE", "/v1/drivers/{id}", &erased);
}

/// A body as an encoding of the document has it.
fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    match encoding {
        "identity" => body.to_vec(),
        "gzip" | "x-gzip" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(body).expect("memory takes all");
            gzip.finish().expect("memory takes all")
        }
        "zstd" => zstd::encode_all(body, 3).expect("memory takes all"),
        other => panic!("how is {other} packed?"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_taken_as_documented() {
    let served = Served::start().await;
    let operations = served.document.operations();
    let post = operations.iter().find(|operation| operation.path == "/v1/points").expect("the way in");
    let header = served.document.parameters(post, "header")[0];
    assert_eq!(header["name"], "Content-Encoding");
    let encodings: Vec<String> = list(&header["schema"]["enum"]).map(spelled).collect();
    assert_eq!(encodings.len(), 4);
    for (media_type, form) in post.said["requestBody"]["content"].as_object().expect("forms") {
        // The moment in it is over by now.
        let (point, pointer) = if form["example"]["points"].is_array() {
            (&form["example"]["points"][0], "/points/0/ts")
        } else {
            (&form["example"], "/ts")
        };
        assert!(point["ts"].is_string(), "{point}");
        let mut body = form["example"].clone();
        *body.pointer_mut(pointer).expect("a ts") = json!(served.now);
        for encoding in &encodings {
            let headers = [("content-type", media_type.as_str()), ("content-encoding", encoding.as_str())];
            for (path, status) in [("/v1/points", 202), ("/v1/points?wait=applied", 200)] {
                let answer = served.ask("POST", path, &headers, packed(encoding, body.to_string().as_bytes())).await;
                assert_eq!(
                    (answer.status, &answer.json()["accepted"]),
                    (status, &json!(1)),
                    "{media_type} {encoding}"
                );
                served.check("POST", "/v1/points", &answer);
            }
        }
    }
    // A bare array; a bad point beside a good one.
    let good =
        json!({"driver_id": 7, "ts": served.now, "lat": 1, "lon": 1, "speed_mps": null, "tags": null, "x": {}});
    let batch = json!([good, {"driver_id": "x"}]);
    assert_eq!(
        served.document.faults(&served.document.0["components"]["schemas"]["NewPoint"], &good),
        Vec::<String>::new()
    );
    let answer = served.ask("POST", "/v1/points", JSON, batch.to_string()).await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (202, &json!("missing_field")));
    served.check("POST", "/v1/points", &answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_come_and_go_as_documented() {
    let served = Served::start().await;
    let redis = RedisServer::start();
    let attached = served.ask("POST", "/v1/admin/stores", JSON, json!({"url": redis.url()}).to_string()).await;
    assert_eq!(attached.status, 201, "{attached:?}");
    served.check("POST", "/v1/admin/stores", &attached);
    let row = attached.json();
    // The defaults of the document.
    let schema = &served.document.0["components"]["schemas"]["StoreToAttach"]["properties"];
    for share in ["reads_percent", "shadow_percent"] {
        assert_eq!(row[share], schema[share]["default"], "{share}");
    }
    let path = attached.header("location");
    let changed = served.ask("PATCH", path, JSON, r#"{"shadow_percent":100}"#).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    served.check("PATCH", "/v1/admin/stores/{name}", &changed);
    let detached = served.ask("DELETE", path, &[], "").await;
    assert_eq!(detached.status, 204, "{detached:?}");
    served.check("DELETE", "/v1/admin/stores/{name}", &detached);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_less_than_whole_is_told_as_documented() {
    let mut redis = RedisServer::start();
    let served = Served::on(&format!("{} embedded", redis.url())).await;
    // Another instance, which has nothing to stand in.
    let other = Served::on(&redis.url()).await;
    served.service.report(&[at("cab", served.now)]).await;
    served.service.caught_up().await;
    eventually("the other instance", async || {
        let answer = served.service.get("/v1/admin/instances").await;
        served.check("GET", "/v1/admin/instances", &answer);
        answer.json()["others"][0].is_object().then_some(())
    })
    .await;
    redis.kill();
    let hour = served.path("/v1/hours/{hour}/drivers");
    eventually("an answer of the other store", async || {
        (served.service.get(&hour).await.header("geotrail-index") == "fallback").then_some(())
    })
    .await;
    for operation in served.document.operations().iter().filter(|operation| operation.method == "GET") {
        let mut query = served.required(operation);
        let path = served.path(operation.path);
        let answer = served.service.get(&with_query(&path, &query)).await;
        served.check("GET", operation.path, &answer);
        let takes = served.document.parameters(operation, "query");
        if takes.iter().any(|parameter| name_of(parameter) == "require") {
            query.push(("require", "complete".into()));
            let refused = served.service.get(&with_query(&path, &query)).await;
            served.check("GET", operation.path, &refused);
        }
    }
    let answer = served.service.get(&hour).await.json();
    assert_eq!((&answer["degraded"], &answer["index"]["state"]), (&json!(true), &json!("fallback")), "{answer}");
    let refused = served.service.get(&format!("{hour}?require=complete")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "index_incomplete"));
    let unanswered = eventually("no answer", async || {
        let answer = other.service.get(&hour).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(unanswered.code(), "index_unavailable");
    other.check("GET", "/v1/hours/{hour}/drivers", &unanswered);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_there_for_whoever_has_no_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys.toml");
    let made = geotrail().args(["key", "new", "--name", "x", "--scope", "read", "--keys"]).arg(&file).output().await;
    let key = String::from_utf8(made.expect("it runs").stdout).expect("text").trim().to_owned();
    let service = Process::serve_with(dir.path(), "embedded", |command| {
        command.arg("--keys").arg(&file);
    })
    .await;
    let document = Document::of(&service).await;
    let served = Served { service, document, now: now_ms(), _dir: dir };
    for path in ["/openapi.json", "/docs"] {
        for headers in [&[][..], &[("authorization", "Bearer gtk_00000000_x")]] {
            let answer = served.ask("GET", path, headers, "").await;
            assert_eq!(answer.status, 200, "{path}");
            served.check("GET", path, &answer);
        }
        let head = served.ask("HEAD", path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {path}");
    }
    let good = format!("Bearer {key}");
    for operation in served.document.operations() {
        let (method, path) = (operation.method.as_str(), served.path(operation.path));
        let answer = served.ask(method, &path, &[], "").await;
        let is_free = list(&operation.said["security"]).next().is_none();
        assert_eq!(answer.status == 401, !is_free, "{method} {path}");
        served.check(method, operation.path, &answer);
        let answer = served.ask(method, &path, &[("authorization", good.as_str())], "").await;
        let takes_read = operation.said["security"][0]["key"][0] == "read";
        assert_eq!(answer.status == 403, !is_free && !takes_read, "{method} {path}");
        served.check(method, operation.path, &answer);
    }
    let slowed = eventually("one wrong key too many", async || {
        let answer = served.ask("GET", "/v1/active", &[("authorization", "Bearer gtk_00000000_x")], "").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    served.check("GET", "/v1/active", &slowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_in_it_all_that_it_needs() {
    let served = Served::start().await;
    let answer = served.service.get("/docs").await;
    served.check("GET", "/docs", &answer);
    let page = std::str::from_utf8(&answer.body).expect("text");
    let only = |element: &str| {
        let parts: Vec<&str> = page.split(&format!("<{element}")).collect();
        assert_eq!(parts.len(), 2, "{element}");
        parts[1].strip_prefix('>').expect("no attributes").split(&format!("</{element}>")).next().expect("its text")
    };
    let hash = |element: &str| BASE64_STANDARD.encode(digest(&SHA256, only(element).as_bytes()));
    let expected = format!(
        "default-src 'none'; connect-src 'self'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    );
    assert_eq!(answer.header("content-security-policy"), expected);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    // An address of somebody else; what the policy forbids; what makes markup of data; what outlives the page.
    for word in [
        "http://",
        "https://",
        "src=",
        "@import",
        "url(",
        "<link",
        "<iframe",
        " style=",
        " onclick=",
        " onload=",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Storage",
        "cookie",
        "indexedDB",
    ] {
        assert!(!page.contains(word), "{word}");
    }
    let mut links = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().expect("an address"));
    assert!(links.all(|link| link == "/openapi.json"));
    let document = String::from_utf8(served.service.get("/openapi.json").await.body).expect("text");
    assert!(
        !document.contains("http://") && !document.contains("https://"),
        "nor does the document lead anywhere else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_found_where_there_is_one() {
    let Served { document, .. } = &Served::start().await;
    let driver = json!({"driver_id": "a", "ts": "2026-11-22T19:58:45.123Z", "age_s": 1.5, "lat": 1.0, "lon": 1.0});
    let with = |pointer: &str, value: Value| {
        let mut answer = json!({"drivers": [driver], "next_cursor": null, "degraded": false});
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        answer.pointer_mut(parent).expect("it is there")[name] = value;
        answer
    };
    let schema = json!({"$ref": "#/components/schemas/Drivers"});
    let label = json!({"state": "partial", "as_of": null});
    for sound in [with("/degraded", json!(true)), with("/index", label.clone()), with("/next_cursor", json!("x"))] {
        assert_eq!(document.faults(&schema, &sound), Vec::<String>::new(), "{sound}");
    }
    for (pointer, value, fault) in [
        ("/degraded", json!("no"), "/degraded breaks `type`"),
        ("/next_cursor", json!(1), "/next_cursor breaks `type`"),
        ("/other", json!(1), "/other is not documented"),
        ("/drivers", json!({}), "/drivers breaks `type`"),
        ("/drivers/0/other", json!(1), "/drivers/0/other is not documented"),
        ("/drivers/0/age_s", json!(-1), "/drivers/0/age_s breaks `minimum`"),
        ("/drivers/0/lat", json!(86), "/drivers/0/lat breaks `maximum`"),
        ("/drivers/0/heading_deg", json!(360), "/drivers/0/heading_deg breaks `exclusiveMaximum`"),
        ("/drivers/0/tags", json!(vec!["a"; 9]), "/drivers/0/tags breaks `maxItems`"),
        ("/index", json!({"state": "fine", "as_of": null}), "/index/state breaks `enum`"),
        ("/index", json!({"state": "partial", "as_of": 1}), "/index/as_of is none of what it may be"),
        ("/index", json!({"state": "partial"}), "/index/as_of is missing"),
    ] {
        assert_eq!(document.faults(&schema, &with(pointer, value)), [fault]);
    }
    let codes =
        &document.0["components"]["responses"]["ShuttingDown"]["content"]["application/problem+json"]["schema"];
    let problem = |code: &str| json!({"type": "x", "title": "x", "status": 503, "detail": "x", "code": code});
    assert_eq!(document.faults(codes, &problem("shutting_down")), Vec::<String>::new());
    assert_eq!(document.faults(codes, &problem("overloaded")), ["/code breaks `const`"]);
}
