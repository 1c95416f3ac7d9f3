//! The words that flows are made of, shared by those who produce them.
//!
//! Numbers and names are those of the Hubble observer API.

/// Why traffic was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum DropReason {
    /// No rule allowed it.
    PolicyDenied = 133,
    /// A deny rule forbade it.
    PolicyDeny = 181,
}

impl DropReason {
    /// The number, as in an event's sub-type and `drop_reason`.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The name of `drop_reason_desc`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PolicyDenied => "POLICY_DENIED",
            Self::PolicyDeny => "POLICY_DENY",
        }
    }

    /// The text that the command line prints.
    pub fn text(self) -> &'static str {
        match self {
            Self::PolicyDenied => "Policy denied",
            Self::PolicyDeny => "Policy denied by denylist",
        }
    }
}
