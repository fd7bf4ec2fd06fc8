//! What a phone may know beside its place: speed, heading, accuracy. A negative value is what phones send for
//! "unknown"; it becomes `None`. Each is kept in a unit fine enough for the contract and small enough for disk, and one
//! step up from zero, so that an `Option` of it takes no more room: there is one of each for every driver.

use std::num::{NonZeroU16, NonZeroU32};

use super::Defect;

/// Metres a second, in steps of 1/50 (so within 0.01 of what was sent), 0 to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Speed(NonZeroU16);

impl Speed {
    const MAX_MPS: f64 = 1_000.0;
    const STEPS_PER_MPS: f64 = 50.0;

    /// From metres a second.
    pub fn from_mps(mps: f64) -> Result<Option<Self>, Defect> {
        match mps {
            mps if mps < 0.0 => Ok(None),
            mps if mps <= Self::MAX_MPS => Ok(Self::from_steps((mps * Self::STEPS_PER_MPS).round() as u16)),
            _ => Err(Defect::SpeedInvalid),
        }
    }

    /// In metres a second.
    pub fn mps(self) -> f64 {
        f64::from(self.steps()) / Self::STEPS_PER_MPS
    }

    /// Hundredths of a metre a second, without rounding.
    pub const fn hundredths(self) -> u32 {
        self.steps() as u32 * 2
    }

    /// Steps of 1/50 m/s, for encodings.
    pub const fn steps(self) -> u16 {
        self.0.get() - 1
    }

    /// From steps of 1/50 m/s; `None` if there are too many.
    pub fn from_steps(steps: u16) -> Option<Self> {
        let is_fine = f64::from(steps) <= Self::MAX_MPS * Self::STEPS_PER_MPS;
        NonZeroU16::new(steps.checked_add(1)?).filter(|_| is_fine).map(Self)
    }
}

/// Degrees clockwise from north, in tenths, 0 to 359.9. 360 is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Heading(NonZeroU16);

impl Heading {
    const TENTHS: u16 = 3_600;

    /// From degrees.
    pub fn from_deg(deg: f64) -> Result<Option<Self>, Defect> {
        match deg {
            deg if deg < 0.0 => Ok(None),
            360.0 => Ok(Self::from_tenths(0)),
            // 359.97 stays just below north, so that it is near what was sent for a reader who does not wrap.
            deg if deg < 360.0 => Ok(Self::from_tenths(((deg * 10.0).round() as u16).min(Self::TENTHS - 1))),
            _ => Err(Defect::HeadingInvalid),
        }
    }

    /// In degrees.
    pub fn deg(self) -> f64 {
        f64::from(self.tenths()) / 10.0
    }

    /// Tenths of a degree, for encodings.
    pub const fn tenths(self) -> u16 {
        self.0.get() - 1
    }

    /// From tenths of a degree; `None` from 3,600 up.
    pub fn from_tenths(tenths: u16) -> Option<Self> {
        NonZeroU16::new(tenths.checked_add(1)?).filter(|_| tenths < Self::TENTHS).map(Self)
    }
}

/// Radius in metres within which the phone believes itself to be, in decimetres, 0 to 100,000 m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accuracy(NonZeroU32);

impl Accuracy {
    const MAX_M: f64 = 100_000.0;

    /// From metres.
    pub fn from_m(m: f64) -> Result<Option<Self>, Defect> {
        match m {
            m if m < 0.0 => Ok(None),
            m if m <= Self::MAX_M => Ok(Self::from_dm((m * 10.0).round() as u32)),
            _ => Err(Defect::AccuracyInvalid),
        }
    }

    /// In metres.
    pub fn m(self) -> f64 {
        f64::from(self.dm()) / 10.0
    }

    /// Decimetres, for encodings.
    pub const fn dm(self) -> u32 {
        self.0.get() - 1
    }

    /// From decimetres; `None` if there are too many.
    pub fn from_dm(dm: u32) -> Option<Self> {
        let is_fine = f64::from(dm) <= Self::MAX_M * 10.0;
        NonZeroU32::new(dm.checked_add(1)?).filter(|_| is_fine).map(Self)
    }
}
