//! What the daemon answers over HTTP: figures for a scraper, health for balancers. Reads snapshots, never the engine.
//!
//! ```text
//! configurations ──▶ serve: binds, and again when the address changes ──▶ state: listens, or why not
//! clients ── GET /metrics, /health, /health/MODULE ──▶ a task each ──▶ snapshot receiver
//! ```
//!
//! Nobody has to say who they are: what is served holds no secret and no path of a file.

mod exposition;
mod health;
mod listen;
mod metrics;
mod mirrors;
#[cfg(test)]
mod sample;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use hyper::body::Body as _;
use tokio::sync::watch;

use crate::types::Snapshot;
use exposition::Form;
use health::Health;

pub use listen::serve;

const TEXT: &str = "text/plain; charset=utf-8";

type Snapshots = watch::Receiver<Arc<Snapshot>>;

fn router(snapshots: Snapshots) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(own_health))
        .route("/health/{module}", get(module_health))
        .fallback(no_page)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn(without_body))
        .with_state(snapshots)
}

async fn metrics(State(snapshots): State<Snapshots>, headers: HeaderMap) -> Response {
    let form = form_of(&headers);
    // The lock of the receiver is held for no longer than a count takes.
    let snapshot = Arc::clone(&snapshots.borrow());
    answer(StatusCode::OK, form.content_type(), metrics::page(&snapshot, form))
}

async fn own_health(State(snapshots): State<Snapshots>) -> Response {
    let snapshot = Arc::clone(&snapshots.borrow());
    say(&health::of_daemon(&snapshot))
}

async fn module_health(State(snapshots): State<Snapshots>, Path(module): Path<String>) -> Response {
    let snapshot = Arc::clone(&snapshots.borrow());
    match health::of_module(&snapshot, &module) {
        Some(health) => say(&health),
        None => answer(StatusCode::NOT_FOUND, TEXT, "there is no such module on this node\n".to_owned()),
    }
}

async fn no_page() -> Response {
    let text = "there is nothing here; there are /metrics, /health and /health/MODULE\n";
    answer(StatusCode::NOT_FOUND, TEXT, text.to_owned())
}

async fn no_method() -> Response {
    answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered\n".to_owned())
}

/// Nothing here takes a body, so none is read.
async fn without_body(request: Request, next: Next) -> Response {
    if request.headers().contains_key(TRANSFER_ENCODING) || !request.body().is_end_stream() {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "a request has no body here\n".to_owned());
    }
    next.run(request).await
}

fn say(health: &Health) -> Response {
    let status = if health.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, TEXT, format!("{}\n", health.sentence))
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A balancer that asks through a cache would see an old state.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The older text form only for a client that likes it better by name.
fn form_of(headers: &HeaderMap) -> Form {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accepted = accepted.join(",");
    let quality = |kind: &str| accepted.split(',').filter_map(|range| quality_of(range, kind)).max();
    match (quality("application/openmetrics-text"), quality("text/plain")) {
        (None, Some(text)) if text > 0 => Form::Text,
        (Some(open), Some(text)) if text > open => Form::Text,
        _ => Form::OpenMetrics,
    }
}

/// In thousandths (RFC 9110, 12.4.2); none where the range is about something else.
fn quality_of(range: &str, kind: &str) -> Option<u32> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(kind) {
        return None;
    }
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality: f64 = quality.map_or(Ok(1.0), str::parse).unwrap_or_default();
    Some((quality.clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_it_likes_best() {
        for (accept, expected) in [
            (None, Form::OpenMetrics),
            (Some("*/*"), Form::OpenMetrics),
            (Some("text/plain"), Form::Text),
            (Some("text/plain;version=0.0.4;q=0.3,*/*;q=0.2"), Form::Text),
            (
                Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"),
                Form::OpenMetrics,
            ),
            (Some("application/openmetrics-text;q=0.1, text/plain"), Form::Text),
            (Some("text/plain;q=0"), Form::OpenMetrics),
            (Some("text/plain;q=nonsense"), Form::OpenMetrics),
            (Some(";;,;q=,"), Form::OpenMetrics),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(form_of(&headers), expected, "{accept:?}");
        }
    }
}
