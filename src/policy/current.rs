//! The policy that holds now. It can be exchanged while it is used.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Policy;

/// Where everybody who keeps to the policy looks it up. Clones are the same place.
#[derive(Debug, Clone)]
pub struct CurrentPolicy(Arc<ArcSwap<Policy>>);

impl From<Policy> for CurrentPolicy {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }
}

impl CurrentPolicy {
    /// The policy that holds. What belongs together looks once: the next look may find another.
    pub fn get(&self) -> Arc<Policy> {
        self.0.load_full()
    }

    /// From here on this one holds. What has looked already keeps to the one before.
    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }
}
