//! The one table of routes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Router, middleware};
use http::Method;

use super::guard::Access;
use super::{Service, edge, erase, health, ingest, instances, metrics, openapi, query, stores};
use crate::keys::Scope;

const INGEST: Access = Access::Needs(Scope::Ingest);
const READ: Access = Access::Needs(Scope::Read);
const ADMIN: Access = Access::Needs(Scope::Admin);

/// Each method of every path, what it asks of its callers, and what answers.
fn routes() -> [(Method, &'static str, Access, MethodRouter<Arc<Service>>); 22] {
    let small = |handler: MethodRouter<_>| handler.layer(DefaultBodyLimit::max(stores::MAX_WISH_BYTES));
    [
        (Method::POST, "/v1/points", INGEST, post(ingest::post_points)),
        (Method::GET, "/v1/nearby", READ, get(query::nearby)),
        (Method::GET, "/v1/active", READ, get(query::active)),
        (Method::GET, "/v1/active/count", READ, get(query::active_count)),
        (Method::GET, "/v1/drivers/{id}", READ, get(query::latest)),
        (Method::DELETE, "/v1/drivers/{id}", ADMIN, delete(erase::delete_driver)),
        (Method::GET, "/v1/drivers/{id}/track", READ, get(query::track)),
        (Method::GET, "/v1/hours/{hour}/drivers", READ, get(query::hour_drivers)),
        (Method::GET, "/v1/hours/{hour}/positions", READ, get(query::hour_positions)),
        (Method::GET, "/v1/density", READ, get(query::density)),
        (Method::GET, "/v1/admin/stores", ADMIN, get(stores::list)),
        (Method::POST, "/v1/admin/stores", ADMIN, small(post(stores::attach))),
        (Method::PATCH, "/v1/admin/stores/{name}", ADMIN, small(patch(stores::change))),
        (Method::DELETE, "/v1/admin/stores/{name}", ADMIN, delete(stores::detach)),
        (Method::GET, "/v1/admin/instances", ADMIN, get(instances::list)),
        (Method::DELETE, "/v1/admin/instances/{id}", ADMIN, delete(instances::dismiss)),
        (Method::GET, "/health", Access::Free, get(health::health)),
        (Method::GET, "/livez", Access::Free, get(health::livez)),
        (Method::GET, "/readyz", Access::Free, get(health::readyz)),
        (Method::GET, "/metrics", READ, get(metrics::metrics)),
        (Method::GET, "/openapi.json", Access::Free, get(openapi::document)),
        (Method::GET, "/docs", Access::Free, get(openapi::docs)),
    ]
}

/// What each route asks of its callers. HEAD asks what GET asks.
pub fn table() -> impl Iterator<Item = (Method, &'static str, Access)> {
    routes().into_iter().map(|(method, path, access, _)| (method, path, access))
}

/// What a request for `path`, as the table has it, asks of its caller. Of what is not in the table there is nothing to be had.
pub(super) fn access(method: &Method, path: Option<&str>) -> Access {
    static TABLE: LazyLock<HashMap<&str, Vec<(Method, Access)>>> = LazyLock::new(|| {
        let mut by_path: HashMap<&str, Vec<(Method, Access)>> = HashMap::new();
        for (method, path, access) in table() {
            by_path.entry(path).or_default().push((method, access));
        }
        by_path
    });
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let known = path.and_then(|path| TABLE.get(path)).into_iter().flatten();
    known.into_iter().find(|(of, _)| of == method).map_or(Access::Free, |(_, access)| *access)
}

/// Everything the service answers, over `service`.
pub fn router(service: Arc<Service>) -> Router {
    openapi::make_ready();
    routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, _, handler)| router.route(path, handler))
        .method_not_allowed_fallback(edge::method_not_allowed)
        .fallback(edge::no_such_route)
        .layer(middleware::from_fn_with_state(service.clone(), edge::pass))
        .with_state(service)
}
