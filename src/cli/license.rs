//! `license issue|show|suspend|reinstate|revoke|free-seat`.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::client::Connect;
use super::directory::Directory;
use super::output::{deliver, license_json, license_text, print};
use super::purpose::Purpose;
use crate::domain::Role;
use crate::proto::v1::license_service_client::LicenseServiceClient;
use crate::proto::v1::{
    FreeSeatRequest, GetLicenseRequest, IssueLicenseRequest, License, ReinstateLicenseRequest,
    RevokeLicenseRequest, SuspendLicenseRequest,
};

/// Issue and keep licenses.
#[derive(Debug, clap::Subcommand)]
pub(super) enum LicenseCommand {
    /// Issue a license, and print its key alone
    Issue {
        /// To whom
        #[arg(long)]
        email: String,
        /// Their name, where the policy lets names be stored
        #[arg(long, default_value = "")]
        name: String,
        /// For what
        #[arg(long)]
        product: String,
        /// How many activations at once
        #[arg(long)]
        seats: u32,
        /// No activation from this day or moment on, e.g. 2030-01-31
        #[arg(long, value_name = "TIME", value_parser = moment)]
        expires: Option<prost_types::Timestamp>,
        /// The end of the maintenance window
        #[arg(long, value_name = "TIME", value_parser = moment)]
        updates_until: Option<prost_types::Timestamp>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Show a license
    Show {
        #[command(flatten)]
        license: Named,
        /// Why; it is recorded with the person
        #[arg(long, value_enum, default_value_t = Purpose::CustomerSupport)]
        purpose: Purpose,
    },
    /// Refuse activations until reinstated
    Suspend(Named),
    /// Lift a suspension
    Reinstate(Named),
    /// End a license for good
    Revoke(Named),
    /// End an activation, so that its seat can be used again
    FreeSeat {
        /// As `history` shows it, and a receipt's `jti`
        #[arg(long, value_name = "ID", allow_hyphen_values = true)]
        activation: String,
        #[command(flatten)]
        connect: Connect,
    },
}

/// A license by its key.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The license key
    license_key: String,
    #[command(flatten)]
    connect: Connect,
}

impl LicenseCommand {
    /// Calls the server, and prints the license.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let client = |connect: Connect, role| async move {
            let channel = connect.staff(directory, role).await?;
            anyhow::Ok(LicenseServiceClient::new(channel))
        };
        let license = match self {
            Self::Issue { email, name, product, seats, expires, updates_until, connect } => {
                let nonce = rand::random::<[u8; 16]>().to_vec();
                let request = IssueLicenseRequest {
                    email,
                    product,
                    seats,
                    expires_at: expires,
                    updates_until,
                    nonce,
                    name,
                };
                let mut client = client(connect, Role::Issuer).await?;
                let license = issued(client.issue_license(request).await?.into_inner().license)?;
                let key = &license.license_key;
                return deliver(as_json, &license_json(&license), || key.clone())
                    .context("the license is issued, and `history` shows its key");
            }
            Self::Show { license: Named { license_key, connect }, purpose } => {
                let request = GetLicenseRequest { license_key, purpose: purpose.to_wire() };
                let mut client = client(connect, Role::Support).await?;
                client.get_license(request).await?.into_inner().license
            }
            Self::Suspend(Named { license_key, connect }) => {
                let mut client = client(connect, Role::Issuer).await?;
                let request = SuspendLicenseRequest { license_key };
                client.suspend_license(request).await?.into_inner().license
            }
            Self::Reinstate(Named { license_key, connect }) => {
                let mut client = client(connect, Role::Issuer).await?;
                let request = ReinstateLicenseRequest { license_key };
                client.reinstate_license(request).await?.into_inner().license
            }
            Self::Revoke(Named { license_key, connect }) => {
                let mut client = client(connect, Role::Issuer).await?;
                let request = RevokeLicenseRequest { license_key };
                client.revoke_license(request).await?.into_inner().license
            }
            Self::FreeSeat { activation, connect } => {
                let activation_id = BASE64URL
                    .decode(activation)
                    .context("--activation is not base64url; copy it from `history`")?;
                let mut client = client(connect, Role::Support).await?;
                client.free_seat(FreeSeatRequest { activation_id }).await?.into_inner().license
            }
        };
        let license = issued(license)?;
        print(as_json, &license_json(&license), || license_text(&license))?;
        Ok(())
    }
}

fn issued(license: Option<License>) -> anyhow::Result<License> {
    license.context("the server answered without a license; is it of another version?")
}

/// A moment (RFC 3339), or a day, which begins at midnight UTC.
pub(super) fn moment(text: &str) -> anyhow::Result<prost_types::Timestamp> {
    let moment: jiff::Timestamp = if let Ok(moment) = text.parse() {
        moment
    } else if let Ok(day) = text.parse::<jiff::civil::Date>() {
        jiff::tz::Offset::UTC.to_timestamp(day.at(0, 0, 0, 0))?
    } else {
        bail!("expected a day like 2030-01-31, or a moment like 2030-01-31T12:00:00Z");
    };
    Ok(prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() })
}
