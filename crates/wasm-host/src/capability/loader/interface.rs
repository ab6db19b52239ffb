//! `hearth:loader` as guests see it. The functions are there for all; what is not granted fails.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::{DynPollable, subscribe};
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::execution::Event;
use super::{Execution, Loader, Observer, Wanted, WantedLimits, Worker};
use crate::instance::State;
use crate::javascript::Module;

mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package hearth:host;
            world host {
                import hearth:loader/loader@0.1.0;
                import hearth:loader/bindings@0.1.0;
            }
        ",
        path: "../../wit",
        world: "hearth:host/host",
        imports: { default: trappable },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http": wasmtime_wasi_http::p2::bindings::http,
            "hearth:loader/loader.worker": crate::capability::loader::Worker,
            "hearth:loader/loader.execution": crate::capability::loader::Execution,
        },
    });
}

use generated::hearth::loader::{bindings, loader};

/// Lets guests import both interfaces.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    loader::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    bindings::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

/// A call that the next request of a guest is: not one over the network.
pub(crate) struct LoadedCall {
    loader: Arc<Loader>,
    worker: Worker,
    observer: Arc<Observer>,
}

impl LoadedCall {
    pub(crate) async fn send(
        self,
        request: Request<WasiBody>,
    ) -> Result<http::Response<WasiBody>, Error> {
        let answered = self.loader.call(&self.worker, request, self.observer);
        match answered.await {
            Ok(response) => Ok(response.map(|body| body.boxed_unsync())),
            Err((outcome, problem)) => {
                Err(Error::InternalError(Some(format!("{outcome}: {problem}"))))
            }
        }
    }
}

impl loader::Host for State {
    fn load(&mut self, code: loader::Code) -> wasmtime::Result<Result<Resource<Worker>, String>> {
        let Some(granted) = &self.loader else {
            let problem = "spec.loader does not let this function load code";
            return Ok(Err(problem.to_owned()));
        };
        let loader::Code {
            main_module,
            modules,
            env,
            functions,
            egress,
            limits,
        } = code;
        let modules = modules.into_iter();
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let mut wanted = Wanted {
            modules: modules
                .map(|loader::Module { name, source }| Module { name, source })
                .collect(),
            env,
            functions,
            egress,
            limits: WantedLimits {
                memory_bytes: limits.memory_bytes,
                deadline: limits.deadline_ms.map(millis),
                cpu: limits.cpu_ms.map(millis),
                outbound_calls: limits.outbound_calls,
                response_body_bytes: None,
            },
        };
        let loaded = wanted
            .main(&main_module)
            .and_then(|()| granted.load(wanted));
        match loaded {
            Ok(worker) => Ok(Ok(self.table.push(worker)?)),
            Err(refused) => Ok(Err(refused.to_string())),
        }
    }
}

impl loader::HostWorker for State {
    fn call(
        &mut self,
        worker: Resource<Worker>,
        request: Resource<HostOutgoingRequest>,
    ) -> wasmtime::Result<Result<Resource<Execution>, ErrorCode>> {
        let worker = self.table.get(&worker)?.clone();
        let loader = self.loader.clone();
        let loader = loader.ok_or_else(|| wasmtime::Error::msg("a worker without a loader"))?;
        let observer = Arc::new(Observer::default());
        self.egress.next = Some(LoadedCall {
            loader,
            worker,
            observer: observer.clone(),
        });
        let sent = outgoing_handler::Host::handle(&mut self.http(), request, None);
        self.egress.next = None;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Ok(Err(error.downcast()?)),
        };
        let execution = Execution {
            observer,
            response: Some(response),
        };
        Ok(Ok(self.table.push(execution)?))
    }

    fn drop(&mut self, worker: Resource<Worker>) -> wasmtime::Result<()> {
        self.table.delete(worker)?;
        Ok(())
    }
}

impl loader::HostExecution for State {
    fn response(
        &mut self,
        execution: Resource<Execution>,
    ) -> wasmtime::Result<Option<Resource<HostFutureIncomingResponse>>> {
        Ok(self.table.get_mut(&execution)?.response.take())
    }

    fn subscribe(
        &mut self,
        execution: Resource<Execution>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, execution)
    }

    fn next(&mut self, execution: Resource<Execution>) -> wasmtime::Result<Option<loader::Event>> {
        let event = self.table.get(&execution)?.observer.next();
        Ok(event.map(|event| match event {
            Event::Invoked {
                id,
                name,
                arguments,
            } => loader::Event::Invoked(loader::Invocation {
                id,
                name,
                arguments,
            }),
            Event::Ended(report) => loader::Event::Ended(report.into()),
        }))
    }

    fn reply(
        &mut self,
        execution: Resource<Execution>,
        id: u32,
        answer: Result<String, String>,
    ) -> wasmtime::Result<()> {
        self.table.get(&execution)?.observer.reply(id, answer);
        Ok(())
    }

    fn drop(&mut self, execution: Resource<Execution>) -> wasmtime::Result<()> {
        let execution = self.table.delete(execution)?;
        execution.observer.leave();
        if let Some(response) = execution.response {
            self.table.delete(response)?;
        }
        Ok(())
    }
}

impl From<super::execution::Report> for loader::Report {
    fn from(report: super::execution::Report) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let lines = report.log.lines.into_iter();
        Self {
            outcome: report.outcome.as_str().to_owned(),
            start: report.start.as_str().to_owned(),
            problem: report.problem,
            duration_us: micros(report.duration),
            cpu_us: micros(report.cpu),
            memory_bytes: report.memory_bytes,
            log: lines
                .map(|(is_error, text)| loader::Line { is_error, text })
                .collect(),
            dropped_lines: report.log.dropped,
        }
    }
}

impl bindings::Host for State {
    fn get(&mut self) -> wasmtime::Result<bindings::Given> {
        let loaded = self.loaded.as_ref();
        Ok(bindings::Given {
            may_load: self.loader.is_some(),
            env: loaded.map(|loaded| loaded.env.clone()).unwrap_or_default(),
            functions: loaded
                .map(|loaded| loaded.functions.clone())
                .unwrap_or_default(),
        })
    }
}
