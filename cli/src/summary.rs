//! The lines that a service prints at its start.

use skincell_runner::output_queue;
use skincell_runner::service::Service;
use skincell_runner::settings::{EngineChoice, Settings};
use std::time::Duration;

/// Prints a line through the output queue, so that a slow reader does not block the server.
pub fn say(line: &str) {
    output_queue::stdout().put(format!("{line}\n").as_bytes());
}

/// Prints routes, models, budget and limits.
pub fn print_summary(service: &Service, settings: &Settings, took: Duration) {
    let app = service.app();
    for trigger in &app.triggers {
        say(&format!("  route    {}", trigger.route));
    }
    for model in service.models() {
        let (name, engine) = (&model.name, model.engine);
        let loaded = if model.loaded { "loaded" } else { "loaded at first use" };
        say(&format!("  model    {name} by {engine}, {}; {loaded}", why(engine, settings.engine)));
    }
    say(&format!("  memory   {}", budget_sum(service)));
    say(&format!(
        "  limits   {} at work, {} queued, {} for each request",
        service.plan().concurrency,
        settings.queue,
        humantime::format_duration(settings.request_timeout),
    ));
    say(&format!("  started  in {} ms", took.as_millis()));
    say("Not a medical device. Stop with Ctrl-C.");
}

/// Why this engine runs the model.
fn why(engine: &str, asked: EngineChoice) -> &'static str {
    match (engine, asked) {
        (_, EngineChoice::Auto) if engine == "cellnet" => "packed for it in model.cell",
        (_, EngineChoice::Auto) if engine == "rten" => {
            "as there is no model.cell (see skincell model pack)"
        }
        (_, EngineChoice::Auto) => "the first of --engine auto that takes it",
        _ => "as --engine says",
    }
}

/// The memory budget as a sum of its parts.
fn budget_sum(service: &Service) -> String {
    let plan = service.plan();
    let size = |bytes: u64| bytesize::ByteSize::b(bytes).display().iec().to_string();
    let one = plan.instance.saturating_add(plan.host_share());
    let requests = format!("{} requests × {}", plan.concurrency, size(one));
    let fixed = format!("runner, connections and uploads {}", size(plan.fixed()));
    if let (Some(models), Some(budget)) = (plan.models, service.budget()) {
        let models = models.private.saturating_add(models.run);
        return format!(
            "{}: {fixed}, {requests}, models and a run {}; the limit is small: {} connections and {} of bodies",
            size(budget),
            size(models),
            plan.connections,
            size(plan.uploads),
        );
    }
    match service.budget() {
        Some(budget) => format!("{}: {fixed}, {requests}, models share the rest", size(budget)),
        None => format!("no limit: {fixed}, {requests}, models as they are"),
    }
}

#[cfg(test)]
mod tests {
    use super::why;
    use skincell_runner::settings::EngineChoice;

    #[test]
    fn an_engine_is_explained_by_what_chose_it() {
        assert_eq!(why("rten", EngineChoice::Rten), "as --engine says");
        assert!(why("rten", EngineChoice::Auto).contains("model pack"));
        assert!(why("cellnet", EngineChoice::Auto).contains("model.cell"));
    }
}
