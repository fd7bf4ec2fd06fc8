//! The one table of routes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Router, middleware};

use super::{Service, edge, erase, health, ingest, instances, metrics, query, stores};

/// The most bytes of a body that asks for a change of the stores.
const MAX_WISH_BYTES: usize = 16 * 1_024;

/// Every path, and what answers.
fn routes() -> [(&'static str, MethodRouter<Arc<Service>>); 18] {
    [
        ("/v1/points", post(ingest::post_points)),
        ("/v1/nearby", get(query::nearby)),
        ("/v1/active", get(query::active)),
        ("/v1/active/count", get(query::active_count)),
        ("/v1/drivers/{id}", get(query::latest)),
        ("/v1/drivers/{id}", delete(erase::delete_driver)),
        ("/v1/drivers/{id}/track", get(query::track)),
        ("/v1/hours/{hour}/drivers", get(query::hour_drivers)),
        ("/v1/hours/{hour}/positions", get(query::hour_positions)),
        ("/v1/density", get(query::density)),
        ("/v1/admin/stores", get(stores::list).post(stores::attach).layer(DefaultBodyLimit::max(MAX_WISH_BYTES))),
        (
            "/v1/admin/stores/{name}",
            patch(stores::change).delete(stores::detach).layer(DefaultBodyLimit::max(MAX_WISH_BYTES)),
        ),
        ("/v1/admin/instances", get(instances::list)),
        ("/v1/admin/instances/{id}", delete(instances::dismiss)),
        ("/health", get(health::health)),
        ("/livez", get(health::livez)),
        ("/readyz", get(health::readyz)),
        ("/metrics", get(metrics::metrics)),
    ]
}

/// Everything the service answers, over `service`.
pub fn router(service: Arc<Service>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, handler)| router.route(path, handler))
        .method_not_allowed_fallback(edge::method_not_allowed)
        .fallback(edge::no_such_route)
        .layer(middleware::from_fn_with_state(service.clone(), edge::pass))
        .with_state(service)
}
