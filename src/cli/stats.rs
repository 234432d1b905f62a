//! `stats`: how much was sold and used, in counts that name nobody.

use serde_json::{Value, json};

use super::client::Connect;
use super::directory::Directory;
use super::output::print;
use crate::domain::Role;
use crate::proto::v1::statistics_service_client::StatisticsServiceClient;
use crate::proto::v1::{DayStatistics, GetStatisticsRequest};

/// Show licenses and activations by day and product; counts of small groups are not told
#[derive(Debug, clap::Args)]
pub(super) struct Stats {
    /// The first day, e.g. 2030-01-31 [default: the first there is]
    #[arg(long, value_name = "DAY", default_value = "")]
    from: String,
    /// The last day [default: yesterday]
    #[arg(long, value_name = "DAY", default_value = "")]
    to: String,
    #[command(flatten)]
    connect: Connect,
}

impl Stats {
    /// Calls the server, and prints the counts.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let channel = self.connect.staff(directory, Role::Analytics).await?;
        let request = GetStatisticsRequest { from: self.from, to: self.to };
        let answer = StatisticsServiceClient::new(channel).get_statistics(request).await?;
        let answer = answer.into_inner();
        let smallest = answer.smallest_group;
        let days: Vec<Value> = answer.days.iter().map(to_json).collect();
        print(as_json, &json!({ "days": days, "smallest_group": smallest }), || {
            let line = |of: &DayStatistics| {
                let shown = |count: Option<u32>| {
                    count.map_or_else(
                        || format!("of fewer than {smallest} persons"),
                        |count| count.to_string(),
                    )
                };
                let (licenses, activations) = (shown(of.licenses), shown(of.activations));
                format!(
                    "{}  {}  licenses: {licenses}  activations: {activations}",
                    of.day, of.product
                )
            };
            let lines: Vec<String> = answer.days.iter().map(line).collect();
            if lines.is_empty() { "nothing yet".to_owned() } else { lines.join("\n") }
        })?;
        Ok(())
    }
}

fn to_json(of: &DayStatistics) -> Value {
    json!({
        "day": of.day,
        "product": of.product,
        "licenses": of.licenses,
        "activations": of.activations,
    })
}
