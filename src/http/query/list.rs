//! Lists: a page at a time, or everything as a stream of lines.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use http::HeaderMap;

use super::ask::{self, MAX_LIMIT};
use super::{Require, fetch, respond};
use crate::http::Service;
use crate::http::accept::Form;
use crate::http::cursor::{self, Mark};
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render::{self, More, Row, Tail};
use crate::model::DriverId;
use crate::query::{Answer, PASS_ROWS, Queries, QueryError};
use crate::store::Page;

/// A list that comes in pages.
pub(super) trait Listing: Send + Sync + 'static {
    /// What it lists.
    type Row: Row + Send + Sync;
    /// Where a page begins.
    type Mark: Mark + Send + Sync;
    /// The member of the answer that holds the rows.
    const MEMBER: &'static str;

    /// The route and everything asked that decides what is in the list: what its cursors belong to.
    fn identity(&self) -> String;

    /// The driver it is about, if it is about one.
    fn subject(&self) -> Option<&DriverId> {
        None
    }

    /// At most `limit` rows, from a mark or from the beginning.
    fn page(
        &self,
        queries: &Queries,
        from: Option<&Self::Mark>,
        limit: usize,
    ) -> impl Future<Output = Result<Answer<Rows<Self>>, QueryError>> + Send;
}

/// A page, and where the next one begins, if there is one.
pub(super) struct Rows<L: Listing + ?Sized> {
    pub(super) rows: Vec<L::Row>,
    pub(super) next: Option<L::Mark>,
}

impl<L: Listing<Mark = DriverId>> From<Page<L::Row>> for Rows<L> {
    fn from(page: Page<L::Row>) -> Self {
        Self { rows: page.items, next: page.next }
    }
}

/// Answers with a page, or with everything from the cursor on, as the client accepts. `params` are those of the
/// listing, and `limit`, `cursor`, `require`.
pub(super) async fn answer<L: Listing>(
    service: Arc<Service>,
    headers: &HeaderMap,
    params: &Params<'_>,
    listing: L,
) -> Result<Response, Problem> {
    let limit = ask::limit(params, MAX_LIMIT)?;
    let require = ask::require(params)?;
    let identity = listing.identity();
    let cursor = params.text("cursor").filter(|cursor| !cursor.is_empty());
    let from = cursor.map(|cursor| cursor::decode::<L::Mark>(&identity, cursor)).transpose()?;
    let form = Form::negotiate(headers, Form::LIST)?;
    let limit = if form == Form::NdJson { PASS_ROWS } else { limit };
    let first = fetch(&service, require, listing.page(&service.queries, from.as_ref(), limit)).await?;
    let Answer { value: page, index } = first;
    let tail = |next: Option<&L::Mark>| {
        let next = next.map(|mark| cursor::encode(&identity, mark));
        Tail { more: More::Cursor(next), index }
    };
    let now = service.queries.now();
    Ok(match form {
        Form::Json => {
            let body = render::json(L::MEMBER, listing.subject(), &page.rows, &tail(page.next.as_ref()), now);
            respond(form, index, body)
        }
        Form::GeoJson => respond(form, index, render::feature_collection(&page.rows, &tail(page.next.as_ref()), now)),
        Form::NdJson => respond(form, index, Body::from_stream(lines(service, require, listing, page))),
    })
}

/// Where a stream stands.
enum Step<L: Listing> {
    Write(Rows<L>),
    Fetch(L::Mark),
    End,
}

/// The rows of `first` and of all pages after it, as lines. Each page is fetched when the one before is on its way. An
/// error ends the stream in the middle, whereupon the connection is broken off: nobody takes it for the whole.
fn lines<L: Listing>(
    service: Arc<Service>,
    require: Require,
    listing: L,
    first: Rows<L>,
) -> impl Stream<Item = Result<Bytes, Problem>> {
    let shared = Arc::new((service, listing));
    let pages = stream::try_unfold(Step::Write(first), move |step| {
        let shared = shared.clone();
        async move {
            let (service, listing) = &*shared;
            let page = match step {
                Step::Write(page) => page,
                Step::Fetch(mark) => {
                    let page = listing.page(&service.queries, Some(&mark), PASS_ROWS);
                    fetch(service, require, page).await?.value
                }
                Step::End => return Ok(None),
            };
            let lines = Bytes::from(render::lines(&page.rows, service.queries.now()));
            Ok(Some((lines, page.next.map_or(Step::End, Step::Fetch))))
        }
    });
    pages.inspect_err(|error: &Problem| {
        error.note();
        tracing::warn!(%error, "a stream was broken off");
    })
}
