//! Places for pulls. A registry that does not answer holds its own places for as long as containerd waits for it, and
//! bundles of other registries come meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::bundle::Failure;

/// Pulls of one container that one registry has at once; the rest waits.
const OF_ONE: usize = 2;
/// Pulls of one container, all registries together. As many as this divided by [`OF_ONE`] silent registries stop the others.
const OF_ALL: usize = 64;

/// The places of one container.
#[derive(Debug)]
pub(super) struct Pulls {
    all: Arc<Semaphore>,
    /// By registry, while somebody pulls from it or waits to.
    registries: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(OF_ALL)),
            registries: Mutex::default(),
        }
    }
}

/// Gives its places back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Pulls {
    /// A place to pull an image with a full name, once there is one.
    pub(super) async fn place(&self, image: &str) -> Result<Place, Failure> {
        let closed = |error| Failure::node("waiting for a place to pull", error);
        let registry = self.registry(image);
        // In this order: who waits for a registry holds nothing that others need.
        let of_one = registry.acquire_owned().await.map_err(closed)?;
        let of_all = self.all.clone().acquire_owned().await.map_err(closed)?;
        Ok(Place {
            _of_one: of_one,
            _of_all: of_all,
        })
    }

    fn registry(&self, image: &str) -> Arc<Semaphore> {
        let name = image.split('/').next().unwrap_or(image);
        let mut registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        registries.retain(|_, places| places.strong_count() > 0);
        let known = registries.entry(name.to_owned()).or_default();
        known.upgrade().unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(OF_ONE));
            *known = Arc::downgrade(&places);
            places
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_silent_registry_stops_nobody_elses_pulls() {
        let pulls = Pulls::default();
        let at = |image: &'static str| pulls.place(image).now_or_never();
        let first = at("dead.example.com/a:1").unwrap().unwrap();
        let _second = at("dead.example.com/b:1").unwrap().unwrap();
        assert!(at("dead.example.com/c:1").is_none(), "it waits");
        let _third = at("dead.example.com:5000/a:1").unwrap().unwrap();
        let other = at("docker.io/library/a:1").unwrap().unwrap();
        drop((first, other));
        at("dead.example.com/c:1").unwrap().unwrap();
        assert_eq!(
            pulls.registries.lock().unwrap().len(),
            2,
            "what is idle is forgotten"
        );
    }
}
