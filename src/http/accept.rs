//! Which form an answer takes (RFC 9110, 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

use super::problem::Problem;

/// The forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A page, as `application/json`.
    Json,
    /// A page, as a collection of features.
    GeoJson,
    /// Everything, a row a line.
    NdJson,
}

impl Form {
    /// Those of a list.
    pub(crate) const LIST: &[Self] = &[Self::Json, Self::GeoJson, Self::NdJson];
    /// That of everything else.
    pub(crate) const SINGLE: &[Self] = &[Self::Json];

    /// Its media type.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::GeoJson => "application/geo+json",
            Self::NdJson => "application/x-ndjson",
        }
    }

    /// The form among `offers` that the client likes best. Of those it likes as much, the one it names more exactly,
    /// then the one it names first, then the one we offer first.
    pub(crate) fn negotiate(headers: &HeaderMap, offers: &[Self]) -> Result<Self, Problem> {
        let ranges = ranges(headers);
        if ranges.is_empty() {
            return offers.first().copied().ok_or(Problem::NotAcceptable);
        }
        let liked = offers.iter().enumerate().filter_map(|(order, offer)| {
            let (place, range, exactness) = ranges
                .iter()
                .enumerate()
                .filter_map(|(place, range)| Some((place, range, range.exactness(*offer)?)))
                .max_by_key(|(place, _, exactness)| (*exactness, std::cmp::Reverse(*place)))?;
            let rank = (range.weight, exactness, std::cmp::Reverse((place, order)));
            (range.weight > 0).then_some((rank, *offer))
        });
        liked.max_by_key(|(rank, _)| *rank).map(|(_, offer)| offer).ok_or(Problem::NotAcceptable)
    }
}

/// One media range and how much it is liked, in thousandths.
struct Range {
    media: String,
    weight: u16,
}

impl Range {
    /// How exactly it names `form`, if it covers it at all.
    fn exactness(&self, form: Form) -> Option<u8> {
        match self.media.as_str() {
            "*/*" => Some(0),
            "application/*" => Some(1),
            media => (media == form.media_type()).then_some(2),
        }
    }
}

fn ranges(headers: &HeaderMap) -> Vec<Range> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(range).collect()
}

fn range(text: &str) -> Option<Range> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    // A weight that cannot be read counts for nothing: better to refuse than to send what was not wanted.
    let weight =
        weight.map_or(Some(1.0), |q| q.parse().ok()).filter(|q: &f64| (0.0..=1.0).contains(q)).unwrap_or(0.0);
    Some(Range { media, weight: (weight * 1_000.0).round() as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &[&'static str], offers: &[Form]) -> Option<Form> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, http::HeaderValue::from_static(value));
        }
        Form::negotiate(&headers, offers).ok()
    }

    #[test]
    fn the_best_liked_form_is_chosen() {
        for (accept, form) in [
            (&[][..], Some(Form::Json)),
            (&[""], Some(Form::Json)),
            (&["*/*"], Some(Form::Json)),
            (&["application/*"], Some(Form::Json)),
            (&["application/geo+json"], Some(Form::GeoJson)),
            (&["Application/X-NDJSON; charset=utf-8"], Some(Form::NdJson)),
            (&["application/geo+json, */*"], Some(Form::GeoJson)),
            (&["application/json;q=0.5, application/geo+json;q=0.9"], Some(Form::GeoJson)),
            (&["application/x-ndjson, application/json"], Some(Form::NdJson)),
            (&["text/html", "application/x-ndjson;q=0.1"], Some(Form::NdJson)),
            (&["application/json;q=0, */*"], Some(Form::GeoJson)),
            (&["text/html"], None),
            (&["*/*;q=0"], None),
            (&["application/json;q=x"], None),
            (&["application/json;q=NaN"], None),
        ] {
            assert_eq!(chosen(accept, Form::LIST), form, "{accept:?}");
        }
    }

    #[test]
    fn what_is_no_list_comes_as_json_alone() {
        assert_eq!(chosen(&["application/geo+json"], Form::SINGLE), None);
        assert_eq!(chosen(&["application/geo+json, application/json;q=0.1"], Form::SINGLE), Some(Form::Json));
    }
}
