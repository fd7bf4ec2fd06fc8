//! How whole the index behind an answer is.

use std::sync::Arc;

use crate::model::Timestamp;

/// From how much an answer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// Everything that was acknowledged before the freshness bound.
    Complete,
    /// The store is being made whole from the journal; what was accepted up to this moment is in.
    Rebuilding {
        /// Up to when, if known.
        as_of: Option<Timestamp>,
    },
    /// Something is missing that no rebuild under way will bring.
    Partial {
        /// Up to when what is there is whole, if known.
        as_of: Option<Timestamp>,
    },
    /// Another store answered than the one that should have.
    Fallback {
        /// Up to when that store is whole, if known.
        as_of: Option<Timestamp>,
    },
}

impl IndexState {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Rebuilding { .. } => "rebuilding",
            Self::Partial { .. } => "partial",
            Self::Fallback { .. } => "fallback",
        }
    }

    /// Whether an answer with this label is less than whole.
    pub fn is_degraded(self) -> bool {
        self != Self::Complete
    }

    /// Up to when it is whole, where it is less than whole and that is known.
    pub const fn as_of(self) -> Option<Timestamp> {
        match self {
            Self::Complete => None,
            Self::Rebuilding { as_of } | Self::Partial { as_of } | Self::Fallback { as_of } => as_of,
        }
    }
}

/// What is so at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// How whole the index is.
    pub state: IndexState,
    /// How often the store was found to have lost something.
    pub losses: u64,
}

/// Tells the state of a store's index at the moment it is asked.
#[derive(Clone)]
pub struct Label(Arc<dyn Fn() -> Sight + Send + Sync>);

impl Label {
    /// A label that says whatever `look` sees.
    pub fn from_fn(look: impl Fn() -> Sight + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// The state now, and the losses so far.
    pub fn look(&self) -> Sight {
        (self.0)()
    }

    /// The state now.
    pub fn state(&self) -> IndexState {
        self.look().state
    }
}
