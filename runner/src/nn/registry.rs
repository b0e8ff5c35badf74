//! The models of an application: which there are, which a component was granted, and who has to go when
//! room is needed.
//!
//! A component sees only the names its manifest grants (`ai_models`); a name is a look-up, never a
//! path. Loading happens when the guest makes an execution context, so that "no such model" and "the
//! model cannot be loaded" stay two different errors in wasi-nn.

use super::model::{Model, ModelStatus, Unload};
use crate::memory::{ASSUMED_ACTIVATION, Gauge, Ledger, Level, ModelHold, ModelShare};
use crate::metrics::Metrics;
use skincell_engines::{Engine, Engines, LoadError};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Every model that some component was granted.
pub struct Models {
    by_folder: BTreeMap<PathBuf, Arc<Model>>,
    household: Arc<Household>,
}

/// The models one component may load. Cheap to clone: each request gets one.
#[derive(Clone, Default)]
pub struct Grants {
    by_name: Arc<HashMap<String, Arc<Model>>>,
    guest_models: Option<GuestModels>,
}

/// Leave to bring a model of one's own.
#[derive(Clone)]
pub(super) struct GuestModels {
    pub(super) engine: Arc<dyn Engine>,
    /// Bytes of all of a request's models together.
    pub(super) limit: u64,
}

impl Grants {
    pub(super) fn find(&self, name: &str) -> Option<Arc<Model>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// Lets the component load ONNX models from its own bytes, `limit` bytes a request.
    #[must_use]
    pub fn with_guest_models(self, engine: Arc<dyn Engine>, limit: u64) -> Self {
        Self { guest_models: Some(GuestModels { engine, limit }), ..self }
    }

    pub(super) fn guest_models(&self) -> Option<&GuestModels> {
        self.guest_models.as_ref()
    }

    /// The largest run of any of these models, in bytes: what a request may come to take. What is not
    /// known yet is assumed.
    #[must_use]
    pub fn activation(&self) -> u64 {
        let activation =
            |model: &Arc<Model>| model.figures().activation.unwrap_or(ASSUMED_ACTIVATION);
        self.by_name.values().map(activation).max().unwrap_or(0)
    }
}

/// What all models share: the books, and each other as candidates to go.
pub(crate) struct Household {
    began: Instant,
    ledger: Arc<Ledger>,
    gauge: Arc<Gauge>,
    metrics: Arc<Metrics>,
    members: Mutex<Vec<Weak<Model>>>,
}

impl Models {
    /// No models yet, on these books.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, gauge: Arc<Gauge>, metrics: Arc<Metrics>) -> Self {
        let members = Mutex::default();
        let household = Household { began: Instant::now(), ledger, gauge, metrics, members };
        Self { by_folder: BTreeMap::new(), household: Arc::new(household) }
    }

    /// Grants `names`, which lie in folders of these names under `folder`, each to be run by the first
    /// of `engines` that takes it, or else by the last, which will say why not. Nothing is read yet.
    pub fn grant(&mut self, names: &[String], folder: &Path, engines: &Engines) -> Grants {
        let granted = names.iter().map(|name| {
            let folder = folder.join(name);
            let model = self.by_folder.entry(folder).or_insert_with_key(|folder| {
                let household = Arc::clone(&self.household);
                let model = Arc::new(Model::new(name, folder, engines.clone(), household));
                self.household.members().push(Arc::downgrade(&model));
                self.household.metrics.expect_model(name);
                model
            });
            (name.clone(), Arc::clone(model))
        });
        Grants { by_name: Arc::new(granted.collect()), guest_models: None }
    }

    /// Loads every model now.
    ///
    /// # Errors
    /// The first that cannot be loaded.
    pub fn preload(&self) -> Result<(), LoadError> {
        self.by_folder.values().try_for_each(|model| model.lease().map(drop))
    }

    /// How each model stands, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ModelStatus> {
        self.by_folder.values().map(|model| model.status()).collect()
    }

    /// Unloads what nobody has used for `idle`, and where memory is tight whatever nobody uses now; tries
    /// again what could not be loaded. May take as long as a load.
    pub fn tidy(&self, idle: Duration) {
        let tight = self.household.gauge.level() >= Level::Tight;
        let mut freed = false;
        for model in self.by_folder.values() {
            freed |= model.unload_if(Unload::Idle, |since| since >= idle)
                || (tight && model.unload_if(Unload::Evicted, |_| true));
        }
        if freed || tight {
            crate::allocator::trim();
        }
        if !tight {
            self.by_folder.values().for_each(|model| model.retry());
        }
    }

    /// Unloads the model that has been idle for the longest; whether there was one.
    pub fn evict_one(&self) -> bool {
        self.household.evict_one(None)
    }
}

impl Household {
    /// Evicts idle models until one with this share fits beside what is promised already.
    pub(super) fn make_room_for(&self, name: &str, share: ModelShare) {
        let fits = || self.ledger.has_room_for(share) && self.gauge.level() < Level::Tight;
        while !fits() && self.evict_one(Some(name)) {}
    }

    /// Evicts the model that has been idle for the longest, but not the one called `keep`.
    fn evict_one(&self, keep: Option<&str>) -> bool {
        let models: Vec<Arc<Model>> = self.members().iter().filter_map(Weak::upgrade).collect();
        let others = models.iter().filter(|model| Some(model.name()) != keep);
        let idle = others.filter_map(|model| Some((model.idle()?, model)));
        let Some((_, oldest)) = idle.max_by_key(|(idle, _)| *idle) else { return false };
        oldest.unload_if(Unload::Evicted, |_| true)
    }

    /// Puts a model into the books.
    pub(super) fn hold(&self, share: ModelShare) -> ModelHold {
        self.ledger.hold_model(share)
    }

    pub(super) fn loaded(&self, name: &str, took: Duration) {
        self.metrics.loaded(name, took);
    }

    pub(super) fn load_failed(&self, name: &str) {
        self.metrics.load_failed(name);
    }

    pub(super) fn unloaded(&self, name: &str, why: Unload) {
        self.metrics.unloaded(name, why.label());
    }

    pub(super) fn ran(&self, took: Duration) {
        self.metrics.stage("inference", took);
    }

    /// Since the models began.
    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Weak<Model>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Grants, Models};
    use crate::memory::{Budget, Gauge, Ledger};
    use crate::metrics::Metrics;
    use skincell_engines::{
        Dtype, Engine, Engines, LoadError, Model, NamedTensor, RunError, Source, Tensor,
    };
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Doubles every byte, counts its loads, and fails the first one if told to.
    #[derive(Default)]
    struct Doubling {
        loads: AtomicUsize,
        fail_first: bool,
    }

    impl Engine for Doubling {
        fn name(&self) -> &'static str {
            "doubling"
        }

        fn takes(&self, _source: &Source<'_>) -> bool {
            true
        }

        fn load(&self, _source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
            let earlier = self.loads.fetch_add(1, Ordering::SeqCst);
            // Long enough for the other threads to arrive while this load is under way.
            std::thread::sleep(Duration::from_millis(50));
            if earlier == 0 && self.fail_first {
                return Err(LoadError::Missing("model.onnx".into()));
            }
            Ok(Box::new(Double))
        }
    }

    struct Double;

    impl Model for Double {
        fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
            let double = |(name, tensor): &NamedTensor| {
                let data = tensor.data.iter().map(|byte| byte * 2).collect();
                (name.clone(), Tensor { data, ..tensor.clone() })
            };
            Ok(inputs.iter().map(double).collect())
        }
    }

    fn granted(engine: &Arc<Doubling>, names: &[&str], folder: &Path) -> (Models, Grants) {
        let engines = Engines::new(Vec::new(), Arc::<Doubling>::clone(engine));
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let ledger = Arc::new(Ledger::new(None, 0, 0));
        let mut models = Models::new(ledger, gauge, Arc::new(Metrics::new()));
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let grants = models.grant(&names, folder, &engines);
        (models, grants)
    }

    #[test]
    fn many_at_once_load_a_model_once() {
        let engine = Arc::new(Doubling::default());
        let (_models, grants) = granted(&engine, &["skin"], Path::new("models"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| grants.find("skin").unwrap().lease().map(drop));
            }
        });
        assert_eq!(engine.loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn only_granted_names_are_found_and_never_as_a_path() {
        let engine = Arc::new(Doubling::default());
        let (_models, grants) = granted(&engine, &["skin"], Path::new("models"));
        for name in ["other", "", "../skin", "models/skin", "skin/", "/etc/passwd"] {
            assert!(grants.find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_failed_load_is_an_answer_and_is_tried_again() {
        let engine = Arc::new(Doubling { fail_first: true, ..Doubling::default() });
        let (_models, grants) = granted(&engine, &["skin"], Path::new("models"));
        let model = grants.find("skin").unwrap();
        assert!(matches!(model.lease(), Err(LoadError::Missing(_))));
        let loaded = model.lease().unwrap();
        let tensor = Tensor::new(vec![2], Dtype::U8, vec![1, 2]);
        let outputs = model.run(&loaded, &[("x".to_owned(), tensor)]).unwrap();
        assert_eq!(outputs[0].1.data, [2, 4]);
        assert!(model.figures().activation.is_some(), "the first run is measured");
    }

    #[test]
    fn an_idle_model_goes_and_one_in_use_stays() {
        let engine = Arc::new(Doubling::default());
        let (models, grants) = granted(&engine, &["skin", "other"], Path::new("models"));
        let in_use = grants.find("skin").unwrap().lease().unwrap();
        drop(grants.find("other").unwrap().lease().unwrap());
        let loaded = || models.status().iter().filter(|m| m.loaded).count();
        models.tidy(Duration::from_secs(3600));
        assert_eq!(loaded(), 2, "neither has been idle for an hour");
        models.tidy(Duration::ZERO);
        assert_eq!(loaded(), 1, "the one in use stays");
        assert!(!models.evict_one(), "nor is it evicted");
        drop(in_use);
        assert!(models.evict_one());
        assert_eq!(loaded(), 0);
    }

    #[test]
    fn the_longest_idle_is_evicted_first() {
        let engine = Arc::new(Doubling::default());
        let (models, grants) = granted(&engine, &["a", "b"], Path::new("models"));
        let lease = |name: &str| drop(grants.find(name).unwrap().lease().unwrap());
        lease("b");
        lease("a");
        lease("a");
        assert!(models.evict_one());
        let left: Vec<_> = models.status().into_iter().filter(|m| m.loaded).collect();
        assert_eq!(left[0].name, "a");
    }

    #[test]
    fn a_replaced_model_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("skin");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("model.onnx"), "one").unwrap();
        let engine = Arc::new(Doubling::default());
        let (_models, grants) = granted(&engine, &["skin"], folder.path());
        let lease = || drop(grants.find("skin").unwrap().lease().unwrap());
        lease();
        lease();
        assert_eq!(engine.loads.load(Ordering::SeqCst), 1);
        std::fs::write(model.join("new"), "two").unwrap();
        std::fs::rename(model.join("new"), model.join("model.onnx")).unwrap();
        lease();
        assert_eq!(engine.loads.load(Ordering::SeqCst), 2);
    }
}
