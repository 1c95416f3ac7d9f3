//! Why a version of a filter is not in force.

use weft_wasm_host::{ConfigureError, Fault, FaultKind, LoadError, ReloadError, RuntimeError};

/// What went wrong, for the requests that meet it and for whoever is to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides by which policy requests go meanwhile.
    pub error: ReloadError,
    /// What reports say.
    pub text: String,
}

impl Failure {
    /// There is no module.
    #[must_use]
    pub fn fetch(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            error: ReloadError::Fetch(text.clone()),
            text,
        }
    }

    /// The module is there, and is the one that was meant.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.error.kind() == FaultKind::Config
    }

    /// It may be different the next time although nothing was changed.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self.error,
            ReloadError::Fetch(_)
                | ReloadError::Load(LoadError::NoCompiler(_))
                | ReloadError::Configure(ConfigureError::Fault(Fault::NoRoom(_)))
        )
    }

    /// It is the same every time, but on a node that is busy or short of memory.
    #[must_use]
    pub const fn is_of_the_node(&self) -> bool {
        matches!(
            self.error,
            ReloadError::Load(LoadError::CompilerKilled)
                | ReloadError::Configure(ConfigureError::TooSlow { .. })
        )
    }
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        Self { error, text }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        ReloadError::from(error).into()
    }
}

impl From<ConfigureError> for Failure {
    fn from(error: ConfigureError) -> Self {
        ReloadError::from(error).into()
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        ConfigureError::from(fault).into()
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::fetch(error.to_string())
    }
}
