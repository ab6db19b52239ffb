//! containerd's Task API: translates calls into what the [`Pod`] does, and its errors into codes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::cgroups::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField, MessageFull};
use containerd_shim_protos::shim_async::Task;
use ttrpc::asynchronous::TtrpcContext;

use crate::container::State;
use crate::error::TaskError;
use crate::events::timestamp;
use crate::pod::Pod;
use crate::spec::Resources;

/// How long the answer to a shutdown has before the connection goes.
const LAST_ANSWER: Duration = Duration::from_millis(20);

const NO_PROCESSES: &str =
    "a hearth container runs a wasm bundle and has no processes; use kubectl logs, or hearth why";

/// The service. Task v2 and v3 have the same messages, so one serves both.
#[derive(Debug, Clone)]
pub struct TaskService {
    pod: Arc<Pod>,
}

impl TaskService {
    /// A service for one pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

fn no_exec(exec_id: &str) -> Result<(), TaskError> {
    match exec_id {
        "" => Ok(()),
        exec_id => Err(TaskError::NoContainer(format!("(exec {exec_id})"))),
    }
}

/// Does what was begun to its end, also when nobody waits for the answer any more: containerd gives a call up after its
/// deadline, and every call when it is restarted. Half of a create or of a delete would stay for good.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(TaskError::node("doing the call")(error.into())))
}

fn refuse<T>(call: &'static str, why: &'static str) -> ttrpc::Result<T> {
    Err(TaskError::NotOffered { call, why }.into())
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = self.pod.clone();
        let pid = to_the_end(async move { pod.create(&request).await }).await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        no_exec(&request.exec_id)?;
        let pod = self.pod.clone();
        let pid = to_the_end(async move { pod.start(&request.id).await }).await?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        no_exec(&request.exec_id)?;
        let container = self.pod.container(&request.id)?;
        let state = container.state();
        let status = match state {
            State::Creating | State::Created => Status::CREATED,
            State::Running | State::Stopping => Status::RUNNING,
            State::Stopped(_) => Status::STOPPED,
        };
        let exit = state.exit();
        let [stdin, stdout, stderr] = container.stdio.clone();
        Ok(StateResponse {
            id: container.id.clone(),
            bundle: container.bundle.display().to_string(),
            pid: std::process::id(),
            status: EnumOrUnknown::new(status),
            stdin,
            stdout,
            stderr,
            exit_status: exit.map_or(0, |exit| exit.code.into()),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.pod.container(&request.id)?;
        let process = |pid| ProcessInfo {
            pid,
            ..Default::default()
        };
        Ok(PidsResponse {
            processes: container.pids().into_iter().map(process).collect(),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        no_exec(&request.exec_id)?;
        let pod = self.pod.clone();
        to_the_end(async move { pod.kill(&request.id, request.signal).await }).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        no_exec(&request.exec_id)?;
        let exit = self.pod.container(&request.id)?.wait().await;
        Ok(WaitResponse {
            exit_status: exit.code.into(),
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        no_exec(&request.exec_id)?;
        let pod = self.pod.clone();
        Ok(to_the_end(async move { pod.delete(&request.id).await }).await?)
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.pod.container(&request.id)?;
        let stats = match container.cgroup() {
            Some(cgroup) => cgroup.stats(),
            // The pause task uses nothing.
            None => Any {
                type_url: Metrics::descriptor().full_name().to_owned(),
                ..Default::default()
            },
        };
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        self.pod.container(&request.id)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        // containerd asks after each container's end; the pod may have others.
        if self.pod.is_empty() {
            tracing::info!(id = request.id, "no container is left, shutting down");
            let exit = self.pod.exit.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LAST_ANSWER).await;
                exit.cancel();
            });
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let any = request.resources.unwrap_or_default();
        let resources: Resources = match any.value.is_empty() {
            true => Resources::default(),
            false => serde_json::from_slice(&any.value).map_err(|error| {
                TaskError::InvalidRequest(format!("{} cannot be read: {error}", any.type_url))
            })?,
        };
        self.pod.update(&request.id, &resources)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        no_exec(&request.exec_id)?;
        self.pod.container(&request.id)?;
        // Nobody reads standard input, so it is closed already.
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> ttrpc::Result<Empty> {
        refuse("exec", NO_PROCESSES)
    }

    async fn resize_pty(&self, _: &TtrpcContext, _: ResizePtyRequest) -> ttrpc::Result<Empty> {
        refuse("resizing a terminal", NO_PROCESSES)
    }

    async fn pause(&self, _: &TtrpcContext, _: PauseRequest) -> ttrpc::Result<Empty> {
        refuse("pause", "scale the function's warm instances to 0 instead")
    }

    async fn resume(&self, _: &TtrpcContext, _: ResumeRequest) -> ttrpc::Result<Empty> {
        refuse("resume", "a hearth container cannot be paused")
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        refuse(
            "checkpoint",
            "each call has a fresh instance, so there is no state to keep",
        )
    }
}
