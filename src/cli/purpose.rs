//! Why a command reads a person's data.

use crate::proto::v1;

/// The purposes there are.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Purpose {
    /// The person asked support for help
    CustomerSupport,
    /// The person asked for access to their data
    AccessRequest,
    /// A license is issued or changed
    LicenseAdministration,
    /// A license is suspected to be misused
    FraudPrevention,
}

impl Purpose {
    /// As requests have it.
    pub(super) fn to_wire(self) -> i32 {
        let purpose = match self {
            Self::CustomerSupport => v1::Purpose::CustomerSupport,
            Self::AccessRequest => v1::Purpose::AccessRequest,
            Self::LicenseAdministration => v1::Purpose::LicenseAdministration,
            Self::FraudPrevention => v1::Purpose::FraudPrevention,
        };
        purpose.into()
    }
}
