//! The names of the protocol's methods, and which of them name what they are about.

pub const INITIALIZE: &str = "initialize";
pub const PING: &str = "ping";
pub const SERVER_DISCOVER: &str = "server/discover";
pub const TOOLS_LIST: &str = "tools/list";
pub const TOOLS_CALL: &str = "tools/call";
pub const PROMPTS_LIST: &str = "prompts/list";
pub const PROMPTS_GET: &str = "prompts/get";
pub const RESOURCES_LIST: &str = "resources/list";
pub const RESOURCES_TEMPLATES_LIST: &str = "resources/templates/list";
pub const RESOURCES_READ: &str = "resources/read";
pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
pub const COMPLETION_COMPLETE: &str = "completion/complete";
pub const LOGGING_SET_LEVEL: &str = "logging/setLevel";
pub const SUBSCRIPTIONS_LISTEN: &str = "subscriptions/listen";
pub const TASKS_GET: &str = "tasks/get";
pub const TASKS_UPDATE: &str = "tasks/update";
pub const TASKS_CANCEL: &str = "tasks/cancel";
pub const TASKS_RESULT: &str = "tasks/result";
pub const TASKS_LIST: &str = "tasks/list";
pub const ROOTS_LIST: &str = "roots/list";
pub const SAMPLING_CREATE_MESSAGE: &str = "sampling/createMessage";
pub const ELICITATION_CREATE: &str = "elicitation/create";
pub const INITIALIZED: &str = "notifications/initialized";
pub const CANCELLED: &str = "notifications/cancelled";
pub const PROGRESS: &str = "notifications/progress";
pub const MESSAGE: &str = "notifications/message";
pub const ROOTS_LIST_CHANGED: &str = "notifications/roots/list_changed";
pub const TOOLS_LIST_CHANGED: &str = "notifications/tools/list_changed";
pub const PROMPTS_LIST_CHANGED: &str = "notifications/prompts/list_changed";
pub const RESOURCES_LIST_CHANGED: &str = "notifications/resources/list_changed";
pub const RESOURCES_UPDATED: &str = "notifications/resources/updated";
pub const SUBSCRIPTIONS_ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
pub const TASKS_STATUS: &str = "notifications/tasks/status";
pub const TASKS: &str = "notifications/tasks";

/// What a method is about, and by which member of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// By `name`.
    Tool,
    /// By `name`.
    Prompt,
    /// By `uri`.
    Resource,
    /// By `taskId`.
    Task,
    /// A prompt or a resource, by `ref`.
    Reference,
}

/// What a request of this method names; none for methods about the server as a whole and for those not known.
pub fn subject(method: &str) -> Option<Subject> {
    match method {
        TOOLS_CALL => Some(Subject::Tool),
        PROMPTS_GET => Some(Subject::Prompt),
        RESOURCES_READ | RESOURCES_SUBSCRIBE | RESOURCES_UNSUBSCRIBE => Some(Subject::Resource),
        TASKS_GET | TASKS_UPDATE | TASKS_CANCEL | TASKS_RESULT => Some(Subject::Task),
        COMPLETION_COMPLETE => Some(Subject::Reference),
        _ => None,
    }
}

/// Whether requests of this method come with `arguments`, an object, of what they name.
pub fn has_arguments(method: &str) -> bool {
    matches!(method, TOOLS_CALL | PROMPTS_GET)
}
