//! Bookinfo's services, small but honest: each calls what it needs through the waypoint, as itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::page;
use super::stage::Place;
use super::workload::Workload;
use crate::failure::Failure;

/// What a backend is.
#[derive(Clone)]
enum Service {
    Productpage(Arc<Workload>),
    Details,
    Ratings,
    Reviews {
        pod: &'static str,
        /// The colour of its stars and who asks for them; v1 shows none.
        stars: Option<(&'static str, Arc<Workload>)>,
    },
}

/// Serves all backends, on tasks of this runtime, for as long as it lives.
pub(crate) fn serve(
    places: Vec<Place>,
    productpage: &Arc<Workload>,
    reviews: &Arc<Workload>,
) -> Result<(), Failure> {
    for place in places {
        let stars = |colour| Some((colour, Arc::clone(reviews)));
        let versioned = |stars| Service::Reviews {
            pod: place.name,
            stars,
        };
        let service = match place.name {
            "productpage-v1" => Service::Productpage(Arc::clone(productpage)),
            "details-v1" => Service::Details,
            "ratings-v1" => Service::Ratings,
            "reviews-v2" => versioned(stars("black")),
            "reviews-v3" => versioned(stars("red")),
            _ => versioned(None),
        };
        let listener = TcpListener::from_std(place.listener).map_err(Failure::new)?;
        tokio::spawn(accept(listener, service));
    }
    Ok(())
}

async fn accept(listener: TcpListener, service: Service) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; others may close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // A client that goes away is no concern of a backend's.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let headers = request.headers();
        match self {
            Self::Productpage(me) => productpage(me, &method, &path, headers).await,
            Self::Details => match id(&path, "/details/") {
                Some(id) => document(&page::details(id)),
                None => nothing(),
            },
            Self::Ratings => match id(&path, "/ratings/") {
                Some(id) => document(&page::ratings(id)),
                None => nothing(),
            },
            Self::Reviews { pod, stars } => match id(&path, "/reviews/") {
                Some(id) => reviews(pod, stars.as_ref(), id, headers).await,
                None => nothing(),
            },
        }
    }
}

/// The number that a path ends with.
fn id(path: &str, prefix: &str) -> Option<u32> {
    path.strip_prefix(prefix)?.parse().ok()
}

async fn reviews(
    pod: &str,
    stars: Option<&(&str, Arc<Workload>)>,
    id: u32,
    incoming: &HeaderMap,
) -> Response<Full<Bytes>> {
    let ratings = match stars {
        Some((colour, me)) => Some((*colour, fetch(me, "ratings", id, incoming).await)),
        None => None,
    };
    document(&page::reviews(pod, id, ratings.as_ref()))
}

async fn productpage(
    me: &Workload,
    method: &Method,
    path: &str,
    incoming: &HeaderMap,
) -> Response<Full<Bytes>> {
    match path {
        "/productpage" => {
            let (details, reviews) = tokio::join!(
                fetch(me, "details", 0, incoming),
                fetch(me, "reviews", 0, incoming),
            );
            reply("text/html; charset=utf-8", page::html(&details, &reviews))
        }
        "/static/style.css" => reply("text/css", page::STYLE.to_owned()),
        "/login" | "/logout" if *method == Method::GET || *method == Method::POST => {
            let mut response = reply("text/plain", String::new());
            *response.status_mut() = StatusCode::FOUND;
            response
                .headers_mut()
                .insert(LOCATION, HeaderValue::from_static("/productpage"));
            response
        }
        "/api/v1/products" => document(&json!([page::product()])),
        "/api/v1/products/0" => passed_on(fetch(me, "details", 0, incoming).await),
        "/api/v1/products/0/reviews" => passed_on(fetch(me, "reviews", 0, incoming).await),
        "/api/v1/products/0/ratings" => passed_on(fetch(me, "ratings", 0, incoming).await),
        _ => nothing(),
    }
}

/// Asks another service for a document; what it said instead, if it said no.
async fn fetch(
    me: &Workload,
    service: &str,
    id: u32,
    incoming: &HeaderMap,
) -> Result<Value, String> {
    let url = format!("http://{service}:9080/{service}/{id}");
    let reply = me
        .ask_on_behalf(Method::GET, &url, incoming)
        .await
        .map_err(|failure| failure.to_string())?;
    if !reply.status.is_success() {
        return Err(format!("{}: {}", reply.status, reply.text()));
    }
    serde_json::from_slice(&reply.body).map_err(|error| error.to_string())
}

fn passed_on(fetched: Result<Value, String>) -> Response<Full<Bytes>> {
    match fetched {
        Ok(value) => document(&value),
        Err(reason) => {
            let mut response = document(&json!({ "error": reason }));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

fn document(value: &Value) -> Response<Full<Bytes>> {
    reply("application/json", value.to_string())
}

fn reply(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn nothing() -> Response<Full<Bytes>> {
    let mut response = reply("text/plain", "not here\n".to_owned());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
