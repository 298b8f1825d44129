//! A server on the official Rust SDK whose calls go on as tasks of the modern era, for callers who declare the extension:
//! the tools that the conformance suite wants of one (`tasks-*`), and nothing of its own but that. It speaks the modern era
//! alone, and prints its port.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities,
    ContentBlock, CreateTaskResult, GetTaskParams, GetTaskResult, InputRequest, InputRequiredResult,
    JsonObject, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ServerCapabilities, ServerConfig,
    Tool, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, ServerHandler};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

const TOOLS: [&str; 7] = [
    "greet",
    "slow_compute",
    "failing_job",
    "protocol_error_job",
    "confirm_delete",
    "multi_input",
    "test_tool_with_task",
];

/// Between two questions after a task.
const POLL_MS: u64 = 100;

#[derive(Clone, Default)]
struct Server {
    tasks: TaskManager,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tasks().build())
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        vec![ProtocolVersion::V_2026_07_28].into()
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema: Arc<JsonObject> = Arc::new(object(json!({ "type": "object" })));
        let tool = |name| Tool::new(name, "See the conformance suite.", Arc::clone(&schema));
        Ok(ListToolsResult::with_all_items(TOOLS.into_iter().map(tool).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let knows_tasks = context.client_capabilities().is_some_and(|it| it.supports_tasks());
        let arguments = request.arguments.unwrap_or_default();
        let seconds = arguments.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        match &*request.name {
            "greet" => {
                let name = arguments.get("name").and_then(Value::as_str).unwrap_or("nobody");
                Ok(text(&format!("Hello, {name}!")).into())
            }
            "slow_compute" if seconds <= 0.0 || !knows_tasks => {
                take(Duration::from_secs_f64(seconds.clamp(0.0, 60.0))).await;
                Ok(text("computed").into())
            }
            "slow_compute" => Ok(self.begin(move |task| compute(task, seconds))),
            "failing_job" | "protocol_error_job" | "confirm_delete" | "multi_input" if !knows_tasks => {
                let needed = ClientCapabilities::builder().enable_tasks().build();
                Err(ErrorData::missing_required_client_capability(needed))
            }
            "failing_job" => Ok(self.begin(|_| async {
                take(Duration::from_secs(1)).await;
                Ok(CallToolResult::error(vec![ContentBlock::text("it failed")]))
            })),
            "protocol_error_job" => {
                Ok(self
                    .begin(|_| async { Err(TaskExit::Error(ErrorData::internal_error("it broke", None))) }))
            }
            "confirm_delete" => Ok(self.begin(|task| async move {
                let said = task.request_input("confirm", form("Sure?", "confirm", "boolean")).await?;
                Ok(text(&format!("confirmed: {said}")))
            })),
            "multi_input" => Ok(self.begin(|task| async move {
                let first = task.request_input("first", form("First?", "value", "string"));
                let second = task.request_input("second", form("Second?", "value", "string"));
                let (first, second) = tokio::try_join!(first, second)?;
                Ok(text(&format!("{first} {second}")))
            })),
            "test_tool_with_task" => {
                let Some(given) = request.input_responses.and_then(|mut it| it.remove("user_name")) else {
                    let asked = form("Who are you?", "name", "string");
                    let asked = [("user_name".to_owned(), asked)].into();
                    return Ok(InputRequiredResult::from_input_requests(asked).into());
                };
                Ok(self.begin(move |_| async move { Ok(text(&format!("named: {given}"))) }))
            }
            other => Err(ErrorData::invalid_params(format!("there is no tool {other}"), None)),
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }
}

impl Server {
    fn begin<F>(&self, work: impl FnOnce(TaskContext) -> F) -> CallToolResponse
    where
        F: Future<Output = Result<CallToolResult, TaskExit>> + Send + 'static,
    {
        let options = TaskOptions::new().with_poll_interval_ms(POLL_MS);
        CreateTaskResult::new(self.tasks.spawn(options, |task| Box::pin(work(task)))).into()
    }
}

async fn compute(task: TaskContext, seconds: f64) -> Result<CallToolResult, TaskExit> {
    tokio::select! {
        () = task.cancelled() => Err(TaskExit::Cancelled),
        () = take(Duration::from_secs_f64(seconds)) => Ok(text("computed")),
    }
}

/// A tool's work takes as long as its caller says.
async fn take(time: Duration) {
    _ = timeout(time, std::future::pending::<()>()).await;
}

fn text(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A form with one field.
fn form(message: &str, field: &str, kind: &str) -> InputRequest {
    let schema = json!({ "type": "object", "properties": { field: { "type": kind } }, "required": [field] });
    let params = json!({ "mode": "form", "message": message, "requestedSchema": schema });
    let request = json!({ "method": "elicitation/create", "params": params });
    serde_json::from_value(request).expect("this is a form")
}

fn object(value: Value) -> JsonObject {
    value.as_object().cloned().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = Server::default();
    let mut config = StreamableHttpServerConfig::default();
    config.legacy_session_mode = false;
    config.json_response = true;
    let sessions: Arc<NeverSessionManager> = Arc::default();
    let service = StreamableHttpService::new(move || Ok(server.clone()), sessions, config);
    let ready = json!({ "port": listener.local_addr()?.port() });
    writeln!(std::io::stdout(), "{ready}")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        let serve = service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.handle(request).await) }
        });
        // Whoever leaves ends it.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
    }
}
