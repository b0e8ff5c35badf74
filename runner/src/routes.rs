//! Finds the trigger that answers a path, by Spin's rules and with the router that Spin uses.
//!
//! Segment by segment a literal precedes a `:segment`, which precedes a trailing `/...`. Of two routes
//! written alike, the last counts. This module knows strings only; a route's target is an index of the
//! caller's.

use routefinder::{RouteSpec, Router, Segment};
use std::sync::Arc;

/// The route that matches a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The index that the route was added with.
    pub target: usize,
    /// The route as the manifest spells it: `/api/...`.
    pub route: String,
    /// The same with a slash in front and none at the end: `/api/...`, and empty for `/`.
    pub matched: String,
    /// The manifest's spelling without its wildcard: `/api`.
    pub base: String,
    /// What the wildcard matched, with a leading slash, and a trailing one if the path has it: `/v1/photos`,
    /// or empty.
    pub path_info: String,
    /// What the named segments matched, in order.
    pub named: Vec<(String, String)>,
}

/// The routes of one application.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    entries: Vec<Entry>,
    /// Routes by their index in `entries`.
    router: Arc<Router<usize>>,
}

#[derive(Debug, Clone)]
struct Entry {
    route: String,
    matched: String,
    spec: RouteSpec,
    target: usize,
}

/// Why a route cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The router rejects it.
    #[error("route {route:?}: {reason}")]
    Malformed {
        /// The route.
        route: String,
        /// The router's message.
        reason: String,
    },
    /// `*` or `...` anywhere but at the end.
    #[error("route {0:?} has a wildcard before its end; it may only be the last segment")]
    WildcardInside(String),
}

impl Routes {
    /// Adds a route. It replaces an earlier one that is written alike.
    ///
    /// # Errors
    /// [`RouteError`] for a malformed route.
    pub fn add(&mut self, route: &str, target: usize) -> Result<(), RouteError> {
        let entry = Entry::new(route, target)?;
        match self.entries.iter_mut().find(|known| known.route == route) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
        let specs =
            self.entries.iter().enumerate().map(|(index, entry)| (entry.spec.clone(), index));
        self.router = Arc::new(specs.collect());
        Ok(())
    }

    /// The best route for `path`, which is still percent-encoded and has no query.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Match> {
        let found = self.router.best_match(path)?;
        let entry = self.entries.get(*found.handler())?;
        let captures = found.captures();
        let named = captures.params().iter();
        Some(Match {
            target: entry.target,
            route: entry.route.clone(),
            matched: entry.matched.clone(),
            base: without_wildcard(&entry.route).to_owned(),
            path_info: captures.wildcard().map(|rest| path_info(rest, path)).unwrap_or_default(),
            named: named.map(|one| (one.name().to_owned(), one.value().to_owned())).collect(),
        })
    }
}

impl Entry {
    fn new(route: &str, target: usize) -> Result<Self, RouteError> {
        let matched = match route.strip_prefix('/') {
            Some(_) => route.to_owned(),
            None => format!("/{route}"),
        };
        let matched = matched.strip_suffix('/').unwrap_or(&matched).to_owned();
        let spelled = match matched.strip_suffix("/...") {
            Some(base) => format!("{base}/*"),
            None => matched.clone(),
        };
        let malformed = |reason| RouteError::Malformed { route: route.to_owned(), reason };
        let spec = RouteSpec::try_from(spelled).map_err(malformed)?;
        // The router panics if a path reaches a wildcard that is not the last segment.
        let before_last = spec.segments().split_last().map_or(&[][..], |(_, rest)| rest);
        match before_last.iter().any(|segment| matches!(segment, Segment::Wildcard)) {
            true => Err(RouteError::WildcardInside(route.to_owned())),
            false => Ok(Self { route: route.to_owned(), matched, spec, target }),
        }
    }
}

fn without_wildcard(route: &str) -> &str {
    route.strip_suffix("/...").unwrap_or(route)
}

/// The router omits the slashes around the text that a wildcard matched; Spin passes them to components.
fn path_info(rest: &str, path: &str) -> String {
    let first = if rest.is_empty() { "" } else { "/" };
    let last = if path.ends_with('/') { "/" } else { "" };
    format!("{first}{rest}{last}")
}

#[cfg(test)]
mod tests {
    use super::{RouteError, Routes};
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    fn routes(table: &[&str]) -> Routes {
        let mut routes = Routes::default();
        for (target, route) in table.iter().enumerate() {
            routes.add(route, target).unwrap();
        }
        routes
    }

    /// Expected values are from Spin's own router (crates/http/src/routes.rs).
    #[test]
    fn the_best_route_wins_as_in_spin() {
        let table = [
            "/...",
            "/cart",
            "/cart/...",
            "/user/:id",
            "/user/:id/...",
            "/user/me",
            "hello",
            "/a/...",
            "/:x",
            "/a/:x/c",
            "/a/b/...",
            "/star/*",
        ];
        let routes = routes(&table);
        let cases = [
            ("/", "/...", "/"),
            ("/other/x", "/...", "/other/x"),
            ("/other/x/", "/...", "/other/x/"),
            ("/cart", "/cart", ""),
            ("/cart/7", "/cart/...", "/7"),
            ("/user/me", "/user/me", ""),
            ("/user/7", "/user/:id", ""),
            ("/user/7/photo", "/user/:id/...", "/photo"),
            ("/hello", "hello", ""),
            ("/a", "/a/...", ""),
            ("/a/b/c", "/a/b/...", "/c"),
            ("/star/x", "/star/*", "/x"),
        ];
        for (path, route, path_info) in cases {
            let found = routes.find(path).unwrap();
            assert_eq!(
                (found.route.as_str(), found.path_info.as_str()),
                (route, path_info),
                "{path}"
            );
        }
        let named = routes.find("/user/7/photo").unwrap().named;
        assert_eq!(named, [("id".to_owned(), "7".to_owned())]);
    }

    /// Spin's router for a table, built with the crate's own calls.
    fn as_spin(table: &[&str]) -> routefinder::Router<usize> {
        let mut kept: Vec<(&str, usize)> = Vec::new();
        for (target, route) in table.iter().enumerate() {
            match kept.iter_mut().find(|(known, _)| known == route) {
                Some(known) => known.1 = target,
                None => kept.push((route, target)),
            }
        }
        let mut router = routefinder::Router::new();
        for (route, target) in kept {
            let route = route.strip_suffix('/').unwrap_or(route);
            let based = route.strip_suffix("...").map(|base| format!("{base}*"));
            router.add(based.unwrap_or(route.to_owned()), target).unwrap();
        }
        router
    }

    /// All sequences of up to `longest` of these segments, each after a slash.
    fn sequences(segments: &[&str], longest: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..longest {
            let to = all.len();
            for index in from..to {
                all.extend(
                    segments
                        .iter()
                        .map(|segment| format!("{}/{segment}", all[index]))
                        .collect::<Vec<_>>(),
                );
            }
            from = to;
        }
        all
    }

    /// All routes of up to three segments, with a wildcard as the last or without one.
    fn patterns() -> Vec<String> {
        let mut patterns = sequences(&["a", "b", ":x"], 3);
        patterns.extend(sequences(&["a", "b", ":x"], 2).iter().map(|base| format!("{base}/...")));
        patterns[0] = "/".to_owned();
        patterns
    }

    /// All paths of up to four segments, with and without a slash at the end.
    fn paths() -> Vec<String> {
        let mut paths = sequences(&["a", "b", "c"], 3);
        paths.extend(sequences(&["a", "c"], 4).into_iter().filter(|path| path.len() == 8));
        paths.extend(paths.clone().iter().map(|path| format!("{path}/")));
        paths.extend(["//a", "/a//b", "//"].map(str::to_owned));
        paths
    }

    /// Compares every path in the tables that begin with `first`; returns how many were compared.
    fn compare_tables(first: &str, patterns: &[String], paths: &[String]) -> u64 {
        let mut compared = 0;
        for second in patterns {
            for third in patterns {
                let table = [first, second, third];
                let (ours, spins) = (routes(&table), as_spin(&table));
                for path in paths {
                    let expected = spins.best_match(path).map(|found| *found.handler());
                    let found = ours.find(path).map(|found| found.target);
                    assert_eq!(found, expected, "{table:?} {path}");
                    compared += 1;
                }
            }
        }
        compared
    }

    /// Tables of three routes, in every order; one that names a route twice stands for the smaller ones.
    #[test]
    fn every_small_table_routes_every_path_as_spin_does() {
        let (patterns, paths) = (patterns(), paths());
        let (next, compared) = (AtomicUsize::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(first) = patterns.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let more = compare_tables(first, &patterns, &paths);
                        compared.fetch_add(more, Ordering::Relaxed);
                    }
                });
            }
        });
        let (tables, compared) = (patterns.len().pow(3), compared.into_inner());
        println!("{compared} comparisons: {} paths in {tables} tables", paths.len());
        assert_eq!(compared, (tables * paths.len()) as u64);
    }

    #[test]
    fn a_route_keeps_its_spelling() {
        let routes = routes(&["/", "/x/", "/y/..."]);
        let spellings = ["/", "/x", "/y/z"].map(|path| {
            let found = routes.find(path).unwrap();
            (found.route, found.matched, found.base)
        });
        let expected = [("/", "", "/"), ("/x/", "/x", "/x/"), ("/y/...", "/y/...", "/y")];
        assert_eq!(spellings, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }

    #[test]
    fn the_last_of_two_routes_written_alike_counts() {
        let routes = routes(&["/dup", "/other", "/dup"]);
        assert_eq!(routes.find("/dup").map(|found| found.target), Some(2));
        assert_eq!(routes.find("/none"), None);
    }

    #[test]
    fn malformed_routes_are_named() {
        let refused = |route: &str| Routes::default().add(route, 0);
        assert_eq!(refused("/.../a/..."), Ok(()), "three dots in the middle are text, as in Spin");
        assert_eq!(refused("/*/a"), Err(RouteError::WildcardInside("/*/a".into())));
        assert!(matches!(refused("/:"), Err(RouteError::Malformed { .. })));
        assert!(matches!(refused("/*name"), Err(RouteError::Malformed { .. })));
    }
}
