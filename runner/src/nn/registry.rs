//! The models of an application, the models each component was granted, and the choice of the model to evict
//! when memory is needed.
//!
//! A component sees only the names that its manifest grants (`ai_models`); a name is looked up, never used as
//! a path. A model is loaded when the guest makes an execution context, so that "no such model" and "the
//! model cannot be loaded" stay two different errors in wasi-nn. Loading itself is left to `model`.

use super::accounts::{ModelAccounts, Unload};
use super::counts::RunCounts;
use super::model::{AcquireError, Model, ModelStatus};
use crate::memory::{ASSUMED_ACTIVATION, Gauge, Ledger, ModelNeeds};
use crate::metrics::Metrics;
use skincell_engines::{Engine, Engines};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// All models granted to components.
pub struct Models {
    by_folder: BTreeMap<PathBuf, Arc<Model>>,
    members: Members,
    accounts: Arc<ModelAccounts>,
}

/// The models that one component may load. Cheap to clone: each request gets a clone.
#[derive(Clone, Default)]
pub struct Grants {
    by_name: Arc<HashMap<String, Arc<Model>>>,
    guest_models: Option<GuestModels>,
}

/// Permission for a guest to load models from its own bytes.
#[derive(Clone)]
pub(super) struct GuestModels {
    pub(super) engine: Arc<dyn Engine>,
    /// Most bytes of all models that one request loads.
    pub(super) limit: u64,
}

impl Grants {
    pub(super) fn find(&self, name: &str) -> Option<Arc<Model>> {
        self.by_name.get(name).map(Arc::clone)
    }

    /// Whether a model of this name is granted.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Lets the component load ONNX models from its own bytes, `limit` bytes a request.
    #[must_use]
    pub fn with_guest_models(self, engine: Arc<dyn Engine>, limit: u64) -> Self {
        Self { guest_models: Some(GuestModels { engine, limit }), ..self }
    }

    pub(super) fn guest_models(&self) -> Option<&GuestModels> {
        self.guest_models.as_ref()
    }

    /// The largest peak of a run of any of these models, in bytes; assumed for models not measured yet.
    #[must_use]
    pub fn run_peak(&self) -> u64 {
        let activation =
            |model: &Arc<Model>| model.figures().activation.unwrap_or(ASSUMED_ACTIVATION);
        self.by_name.values().map(activation).max().unwrap_or(0)
    }
}

/// All models, as candidates for eviction.
type Members = Arc<Mutex<Vec<Weak<Model>>>>;

impl Models {
    /// No models yet; their memory will be counted in `ledger`.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, gauge: Arc<Gauge>, metrics: Arc<Metrics>) -> Self {
        let members = Members::default();
        let candidates = Arc::clone(&members);
        let make_room = Box::new(move |keep: Option<&str>| evict_one(&candidates, keep));
        let accounts = Arc::new(ModelAccounts::new(ledger, gauge, metrics, make_room));
        Self { by_folder: BTreeMap::new(), members, accounts }
    }

    /// Grants the models `names`, in folders of these names under `folder`. Each is run by the first of
    /// `engines` that supports it, or else by the last, whose load then reports the reason. Nothing is read
    /// yet.
    pub fn grant(&mut self, names: &[String], folder: &Path, engines: &Engines) -> Grants {
        let granted = names.iter().map(|name| {
            let folder = folder.join(name);
            let model = self.by_folder.entry(folder).or_insert_with_key(|folder| {
                let accounts = Arc::clone(&self.accounts);
                let model = Arc::new(Model::new(name, folder, engines.clone(), accounts));
                locked(&self.members).push(Arc::downgrade(&model));
                self.accounts.expect(name);
                model
            });
            (name.clone(), Arc::clone(model))
        });
        Grants { by_name: Arc::new(granted.collect()), guest_models: None }
    }

    /// Loads every model now.
    ///
    /// # Errors
    /// The error of the first model that cannot be loaded.
    pub fn preload(&self) -> Result<(), AcquireError> {
        self.by_folder.values().try_for_each(|model| model.acquire().map(drop))
    }

    /// The memory of all models, by their last loads; a run that is not known is assumed.
    #[must_use]
    pub fn needs(&self) -> ModelNeeds {
        let figures = || self.by_folder.values().map(|model| model.figures());
        let runs = figures().map(|figures| figures.activation.unwrap_or(ASSUMED_ACTIVATION));
        ModelNeeds {
            private: figures().map(|figures| figures.share.private).fold(0, u64::saturating_add),
            run: runs.max().unwrap_or(0),
        }
    }

    /// The state of each model, ordered by folder.
    #[must_use]
    pub fn status(&self) -> Vec<ModelStatus> {
        self.by_folder.values().map(|model| model.status()).collect()
    }

    /// The runs of each model with its name, ordered by folder.
    pub(crate) fn counts(&self) -> Vec<(&str, &RunCounts)> {
        self.by_folder.values().map(|model| (model.name(), model.counts())).collect()
    }

    /// Unloads models unused for `idle` or, if memory is tight, all models not in use; tries failed loads
    /// again. May take as long as a load.
    pub fn tidy(&self, idle: Duration) {
        let tight = self.accounts.is_tight();
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

    /// Unloads the model that has been idle for the longest. Returns whether there was one.
    pub fn evict_one(&self) -> bool {
        evict_one(&self.members, None)
    }
}

/// Evicts the model that has been idle for the longest, but not the one called `keep`.
fn evict_one(members: &Members, keep: Option<&str>) -> bool {
    let models: Vec<Arc<Model>> = locked(members).iter().filter_map(Weak::upgrade).collect();
    let others = models.iter().filter(|model| Some(model.name()) != keep);
    let idle = others.filter_map(|model| Some((model.idle()?, model)));
    let Some((_, oldest)) = idle.max_by_key(|(idle, _)| *idle) else { return false };
    oldest.unload_if(Unload::Evicted, |_| true)
}

fn locked(members: &Members) -> MutexGuard<'_, Vec<Weak<Model>>> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Grants, Models};
    use crate::memory::{Budget, Gauge, Ledger};
    use crate::metrics::Metrics;
    use crate::nn::model::{AcquireError, RunFailure};
    use skincell_engines::{
        Dtype, Engine, Engines, LoadError, Model, NamedTensor, RunError, Source, Tensor,
    };
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Doubles every byte and counts its loads; the first one fails if `fail_first` is set.
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
    fn concurrent_requests_load_a_model_once() {
        let engine = Arc::new(Doubling::default());
        let (_models, grants) = granted(&engine, &["skin"], Path::new("models"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| grants.find("skin").unwrap().acquire().map(drop));
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
        assert!(matches!(model.acquire(), Err(AcquireError::Load(LoadError::Missing(_)))));
        let loaded = model.acquire().unwrap();
        let tensor = Tensor::new(vec![2], Dtype::U8, vec![1, 2]);
        let outputs = model.run(&loaded, &[("x".to_owned(), tensor)]).unwrap();
        assert_eq!(outputs[0].1.data, [2, 4]);
        assert!(model.figures().activation.is_some(), "the first run is measured");
    }

    #[test]
    fn an_idle_model_is_unloaded_and_one_in_use_stays() {
        let engine = Arc::new(Doubling::default());
        let (models, grants) = granted(&engine, &["skin", "other"], Path::new("models"));
        let in_use = grants.find("skin").unwrap().acquire().unwrap();
        drop(grants.find("other").unwrap().acquire().unwrap());
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
        let acquire = |name: &str| drop(grants.find(name).unwrap().acquire().unwrap());
        acquire("b");
        acquire("a");
        acquire("a");
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
        let acquire = || drop(grants.find("skin").unwrap().acquire().unwrap());
        acquire();
        acquire();
        assert_eq!(engine.loads.load(Ordering::SeqCst), 1);
        std::fs::write(model.join("new"), "two").unwrap();
        std::fs::rename(model.join("new"), model.join("model.onnx")).unwrap();
        acquire();
        assert_eq!(engine.loads.load(Ordering::SeqCst), 2);
    }

    /// Allocates 16 times its input while it runs, and answers with `outputs` bytes.
    #[derive(Clone, Copy)]
    struct Hungry {
        outputs: usize,
        workspace: Option<u64>,
    }

    impl Engine for Hungry {
        fn name(&self) -> &'static str {
            "hungry"
        }

        fn takes(&self, _source: &Source<'_>) -> bool {
            true
        }

        fn load(&self, _source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
            Ok(Box::new(*self))
        }
    }

    impl Model for Hungry {
        fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
            let buffer = vec![1_u8; inputs[0].1.data.len() * 16];
            // Long enough for the buffer to be sampled.
            std::thread::sleep(Duration::from_millis(20));
            drop(std::hint::black_box(buffer));
            let output = Tensor::new(vec![1], Dtype::U8, vec![0; self.outputs]);
            Ok(vec![("y".to_owned(), output)])
        }

        fn workspace_bytes(&self) -> Option<u64> {
            self.workspace
        }
    }

    fn hungry(engine: Hungry, budget: u64) -> (Models, Arc<crate::nn::model::Model>) {
        let engines = Engines::new(Vec::new(), Arc::new(engine));
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let ledger = Arc::new(Ledger::new(Some(budget), 0, 0));
        let mut models = Models::new(ledger, gauge, Arc::new(Metrics::new()));
        let grants = models.grant(&["skin".to_owned()], Path::new("models"), &engines);
        let model = grants.find("skin").unwrap();
        (models, model)
    }

    fn input(bytes: usize) -> Vec<NamedTensor> {
        vec![("x".to_owned(), Tensor::new(vec![1], Dtype::U8, vec![7; bytes]))]
    }

    /// The first run is no measure of one with larger inputs.
    #[test]
    fn a_run_with_larger_inputs_is_measured_anew_and_needs_room_of_its_own() {
        const MIB: usize = 1 << 20;
        let (_models, model) = hungry(Hungry { outputs: 1, workspace: None }, 200 << 20);
        let loaded = model.acquire().unwrap();
        model.run(&loaded, &input(MIB)).unwrap();
        let first = model.figures().activation.unwrap();
        assert!((12..40).contains(&(first >> 20)), "{first}");
        model.run(&loaded, &input(2 * MIB)).unwrap();
        assert_eq!(
            model.figures().activation,
            Some(first),
            "the reservation of other requests stays"
        );
        let refused = model.run(&loaded, &input(32 * MIB));
        assert!(matches!(refused, Err(RunFailure::NoRoom { more, .. }) if more > 200 << 20));
        model.run(&loaded, &input(MIB)).unwrap();
    }

    #[test]
    fn large_outputs_count_in_the_peak_of_a_run() {
        let engine = Hungry { outputs: 3 << 20, workspace: Some(5) };
        let (_models, model) = hungry(engine, 200 << 20);
        let loaded = model.acquire().unwrap();
        assert_eq!(model.figures().activation, Some((1 << 20) + 5));
        model.run(&loaded, &input(1)).unwrap();
        assert_eq!(model.figures().activation, Some((3 << 20) + 5));
    }

    #[test]
    fn an_engine_that_panics_fails_the_load_and_is_tried_again() {
        struct Panics(AtomicUsize);
        impl Engine for Panics {
            fn name(&self) -> &'static str {
                "panics"
            }
            fn takes(&self, _source: &Source<'_>) -> bool {
                true
            }
            fn load(&self, _source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
                assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "no thread to spare");
                Ok(Box::new(Double))
            }
        }
        let engines = Engines::new(Vec::new(), Arc::new(Panics(AtomicUsize::new(0))));
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let mut models =
            Models::new(Arc::new(Ledger::new(None, 0, 0)), gauge, Arc::new(Metrics::new()));
        let grants = models.grant(&["skin".to_owned()], Path::new("models"), &engines);
        let model = grants.find("skin").unwrap();
        assert!(matches!(model.acquire(), Err(AcquireError::Load(LoadError::Shortage { .. }))));
        assert!(model.acquire().is_ok());
    }

    /// The engine may have read the graph of one model and the weights of another.
    #[test]
    fn files_replaced_during_a_load_are_loaded_again() {
        struct Replacing(AtomicUsize);
        impl Engine for Replacing {
            fn name(&self) -> &'static str {
                "replacing"
            }
            fn takes(&self, _source: &Source<'_>) -> bool {
                true
            }
            fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
                let Source::Folder(folder) = source else { panic!("a folder is asked for") };
                if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
                    std::fs::write(folder.join("new"), "two").unwrap();
                    std::fs::rename(folder.join("new"), folder.join("model.onnx")).unwrap();
                }
                Ok(Box::new(Double))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("skin")).unwrap();
        std::fs::write(folder.path().join("skin/model.onnx"), "one").unwrap();
        let engine = Arc::new(Replacing(AtomicUsize::new(0)));
        let engines = Engines::new(Vec::new(), Arc::<Replacing>::clone(&engine));
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let mut models =
            Models::new(Arc::new(Ledger::new(None, 0, 0)), gauge, Arc::new(Metrics::new()));
        let grants = models.grant(&["skin".to_owned()], folder.path(), &engines);
        let model = grants.find("skin").unwrap();
        assert!(model.acquire().is_ok() && model.acquire().is_ok());
        assert_eq!(engine.0.load(Ordering::SeqCst), 2);
    }
}
