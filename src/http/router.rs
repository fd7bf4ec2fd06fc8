//! The one table of routes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Extension, Router, middleware};

use super::{Service, edge, erase, health, ingest, instances, metrics, query, stores};

/// The most bytes of a body that asks for a change of the stores.
const MAX_WISH_BYTES: usize = 16 * 1_024;

/// What a key must allow for a request to pass. Each request carries that of its route among its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Nothing: whoever can connect may ask.
    Open,
    /// Sending points.
    Ingest,
    /// Asking about drivers.
    Read,
    /// Erasing drivers, changing stores.
    Admin,
}

/// Every path, what a caller needs for it, and what answers.
fn routes(service: &Arc<Service>) -> [(&'static str, Scope, MethodRouter<Arc<Service>>); 18] {
    let query = |handler: MethodRouter<Arc<Service>>| {
        handler.layer(middleware::from_fn_with_state(service.clone(), query::label_every_answer))
    };
    [
        ("/v1/points", Scope::Ingest, post(ingest::post_points)),
        ("/v1/nearby", Scope::Read, query(get(query::nearby))),
        ("/v1/active", Scope::Read, query(get(query::active))),
        ("/v1/active/count", Scope::Read, query(get(query::active_count))),
        ("/v1/drivers/{id}", Scope::Read, query(get(query::latest))),
        ("/v1/drivers/{id}", Scope::Admin, delete(erase::delete_driver)),
        ("/v1/drivers/{id}/track", Scope::Read, query(get(query::track))),
        ("/v1/hours/{hour}/drivers", Scope::Read, query(get(query::hour_drivers))),
        ("/v1/hours/{hour}/positions", Scope::Read, query(get(query::hour_positions))),
        ("/v1/density", Scope::Read, query(get(query::density))),
        (
            "/v1/admin/stores",
            Scope::Admin,
            get(stores::list).post(stores::attach).layer(DefaultBodyLimit::max(MAX_WISH_BYTES)),
        ),
        (
            "/v1/admin/stores/{name}",
            Scope::Admin,
            patch(stores::change).delete(stores::detach).layer(DefaultBodyLimit::max(MAX_WISH_BYTES)),
        ),
        ("/v1/admin/instances", Scope::Admin, get(instances::list)),
        ("/v1/admin/instances/{id}", Scope::Admin, delete(instances::dismiss)),
        ("/health", Scope::Open, get(health::health)),
        ("/livez", Scope::Open, get(health::livez)),
        ("/readyz", Scope::Open, get(health::readyz)),
        ("/metrics", Scope::Read, get(metrics::metrics)),
    ]
}

/// Everything the service answers, over `service`.
pub fn router(service: Arc<Service>) -> Router {
    routes(&service)
        .into_iter()
        .fold(Router::new(), |router, (path, scope, handler)| router.route(path, handler.layer(Extension(scope))))
        .method_not_allowed_fallback(edge::method_not_allowed)
        .fallback(edge::no_such_route)
        .layer(middleware::from_fn_with_state(service.clone(), edge::pass))
        .with_state(service)
}
