//! The cluster tests, grouped by subject. `cargo xtask e2e [FILTER]` runs them; a filter that matches nothing fails.

mod bad_input;
mod chart;
mod cli;
mod hostile;
mod hpa;
mod js;
mod loader;
mod lockdown;
mod netpol;
mod outages;
mod pods;
mod pools;
mod slice;
mod support;
mod survive;
mod typescript;
mod upgrade;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hearth_cluster::Cluster;
use hearth_cluster::tools::{Containerd, Keda};
use hearth_e2e::{Cx, namespaces_ended};
use libtest_mimic::{Arguments, Failed, Trial};

/// Cases that need what this cluster does not have. They are shown as ignored.
fn not_here() -> Result<Vec<&'static str>> {
    let cluster = Cluster::open()?;
    let mut cases = Vec::new();
    // `cargo xtask e2e --containerd` has an older one.
    if cluster.containerd()? == Containerd::default() {
        cases.push("upgrade::containerd_is_upgraded_and_no_call_fails");
    }
    // `cargo xtask e2e --keda` builds it.
    if Keda::find(cluster.layout())?.is_none() {
        cases.push("hpa::keda_follows_what_the_operator_tells");
    }
    Ok(cases)
}

/// A case: what it does with a namespace of its own.
type Case = for<'a> fn(&'a Cx) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Lists the async functions of a module as cases.
macro_rules! cases {
    ($group:literal: $($module:ident::$name:ident),+ $(,)?) => {
        [$((concat!($group, "::", stringify!($name)), (|cx| Box::pin($module::$name(cx))) as Case)),+]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One machine and one cluster: cases that run together would measure each other.
    arguments.test_threads = Some(1);
    let cases = cases!("slice":
        slice::an_applied_function_answers_through_its_service,
        slice::scale_says_eight_when_eight_are_warm,
        slice::a_changed_bundle_replaces_the_old_one_without_a_failed_call,
        slice::log_lines_carry_the_functions_name,
        slice::a_deleted_function_leaves_nothing_behind,
        slice::calls_go_on_while_the_operator_is_away,
        slice::the_hello_example_runs_as_it_stands,
        slice::egress_is_denied_unless_listed,
        slice::the_support_agent_runs_its_whole_loop,
        slice::the_operator_tells_about_itself,
        slice::the_installer_restarts_containerd_only_when_something_changed,
    )
    .into_iter()
    .chain(cases!("pods":
        pods::a_bundle_runs_as_an_ordinary_pod,
        pods::a_wasm_artifact_runs_as_an_ordinary_pod,
        pods::the_example_pod_runs_as_it_stands,
        pods::a_command_runs_as_a_job_and_its_exit_code_is_kept,
        pods::a_module_of_preview_1_runs_as_a_job_and_its_exit_code_is_kept,
        pods::a_guests_end_has_the_reason_and_the_message_that_users_know,
        pods::volumes_are_read_and_written_as_they_are_mounted,
        pods::what_is_named_elsewhere_reaches_a_guest,
        pods::what_kubernetes_decides_about_a_pod_happens,
        pods::init_containers_run_first_and_containers_share_the_pod,
        pods::what_a_guest_cannot_be_given_stops_its_pod_with_a_reason,
        pods::a_deleted_pod_leaves_nothing_behind,
        pods::an_image_that_is_no_bundle_says_so_in_the_pods_events,
        pods::exec_is_refused_with_a_reason,
        pods::a_deployment_is_rolled_without_a_failed_call,
        pods::pods_that_came_and_went_leave_nothing_behind,
        pods::many_plain_pods_run_beside_many_pool_pods,
        pods::a_pod_may_have_hooks_probes_sysctls_and_the_nodes_network,
        pods::controllers_of_every_kind_make_pods_of_bundles,
        pods::logs_are_followed_through_a_rotation_and_kept_of_the_container_before,
        pods::a_port_is_forwarded_and_stats_are_read,
    ))
    .chain(cases!("lockdown":
        lockdown::an_engine_has_given_up_what_a_container_might_have,
        lockdown::each_escape_of_a_broken_sandbox_is_refused,
    ))
    .chain(cases!("bad-input":
        bad_input::the_api_server_refuses_impossible_manifests,
        bad_input::an_image_that_does_not_exist,
        bad_input::a_registry_that_does_not_answer,
        bad_input::a_linux_container,
        bad_input::an_import_that_hearth_does_not_offer,
        bad_input::a_bundle_for_another_architecture,
        bad_input::a_core_module,
        bad_input::a_truncated_file,
        bad_input::a_component_without_entry,
        bad_input::a_bundle_that_is_too_much_to_compile,
        bad_input::a_service_that_belongs_to_somebody_else,
    ))
    .chain(cases!("hostile":
        hostile::a_trap_is_one_calls_problem,
        hostile::a_spinning_guest_is_cut,
        hostile::a_hoarding_guest_is_cut,
        hostile::a_guest_that_never_answers_is_cut,
        hostile::more_calls_than_allowed_are_refused,
        hostile::a_recursing_guest_is_cut,
        hostile::a_guest_that_computes_is_cut_at_its_processor_time,
        hostile::start_up_code_that_computes_is_cut,
        hostile::a_table_does_not_grow_without_end,
        hostile::requests_that_are_too_large_are_refused,
        hostile::an_answer_is_cut_where_it_is_too_large,
        hostile::calls_out_of_one_call_are_bounded,
        hostile::a_flood_of_log_lines_is_cut_and_counted,
        hostile::a_pod_that_is_short_of_memory_answers_so_and_lives,
    ))
    .chain(cases!("js":
        js::the_hello_example_runs_as_it_stands,
        js::an_answer_comes_while_it_is_written,
        js::changed_code_replaces_the_old_one_without_a_failed_call,
        js::what_is_wrong_with_the_code_is_said_with_its_position,
        js::faults_of_a_call_are_outcomes,
        js::code_of_a_config_map_is_followed,
        js::the_same_file_runs_under_workerd,
        typescript::an_agent_is_new_deployed_and_invoked,
        typescript::a_component_in_python_is_new_built_and_deployed,
        typescript::langchain_answers_from_its_packages,
        typescript::llamaindex_answers_from_its_packages,
    ))
    .chain(cases!("loader":
        loader::generated_code_runs_in_a_sandbox_of_its_own,
        loader::a_component_in_c_loads_code,
        loader::autogen_and_langchain_run_code_with_a_token,
    ))
    .chain(cases!("cli":
        cli::serve_answers_without_a_cluster,
        cli::serve_runs_a_manifest_with_its_environment_and_its_egress,
        cli::serve_says_what_is_wrong_with_a_manifest,
    ))
    .chain(cases!("chart":
        chart::pods_keep_to_the_pod_security_that_is_promised,
        chart::who_may_view_or_edit_a_namespace_may_do_so_with_functions,
        chart::helm_test_says_that_it_works,
        netpol::nothing_passes_but_what_policies_allow,
    ))
    .chain(cases!("pools":
        pools::a_changed_pool_is_replaced_without_a_failed_call,
        pools::a_function_goes_elsewhere_without_a_failed_call,
        pools::a_namespace_has_no_more_warm_instances_than_its_quota,
        pools::a_node_joins_is_drained_and_leaves_and_no_call_fails,
    ))
    .chain(cases!("hpa":
        hpa::a_deployment_follows_the_calls_of_a_function,
        hpa::load_raises_replicas_and_its_end_lowers_them_to_zero,
        hpa::a_number_that_a_user_sets_stays,
        hpa::scaling_of_its_own_follows_calls,
        hpa::keda_follows_what_the_operator_tells,
    ))
    .chain(cases!("survive":
        survive::another_operator_leads_when_the_leader_leaves_and_when_it_is_killed,
        survive::a_leader_that_the_api_server_does_not_hear_leads_no_more,
        survive::a_killed_engine_costs_the_calls_in_it_and_no_restart,
        survive::a_killed_engine_of_a_pool_is_warm_again_and_counts_its_lost_calls,
        survive::a_killed_shim_ends_its_pod_with_a_reason_and_no_other,
        survive::a_newer_engine_takes_over_and_no_call_fails,
        survive::a_function_that_engines_die_of_is_kept_away_and_the_others_run_on,
        outages::containerd_goes_and_comes_back_and_no_call_fails,
        outages::kubelet_api_server_registry_and_operator_go_and_come_back_and_no_call_fails,
        outages::what_is_frozen_goes_on_without_a_restart,
        outages::a_full_disk_is_said_and_harms_nothing_that_runs,
        outages::a_node_that_is_rebooted_has_its_caches_and_its_functions_back,
    ))
    .chain(cases!("upgrade":
        upgrade::a_chart_upgrade_keeps_functions_answering,
        upgrade::a_release_is_uninstalled_and_another_takes_over_what_runs,
        upgrade::hearth_is_removed_without_a_trace_and_comes_back,
        // The last one: what follows would run on another cluster than was asked for.
        outages::containerd_is_upgraded_and_no_call_fails,
    ));
    let not_here = not_here().unwrap_or_default();
    let trials: Vec<Trial> = cases
        .map(|(name, case)| {
            Trial::test(name, move || {
                run(name, case).map_err(|error| Failed::from(format!("{error:?}")))
            })
            .with_ignored_flag(not_here.contains(&name))
        })
        .collect();
    if let Some(filter) = &arguments.filter
        && !trials
            .iter()
            .any(|trial| trial.name().contains(filter.as_str()))
    {
        eprintln!(
            "no case matches {filter:?}; the groups are slice, pods, bad-input, hostile, js, loader, cli, chart, pools, hpa, lockdown, survive, upgrade"
        );
        return ExitCode::from(2);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list
        && let Err(error) = ended()
    {
        eprintln!("the cases left something behind: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Whether every namespace of a case is gone, and with it all that was in it.
fn ended() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { namespaces_ended(&kube::Client::try_default().await?).await })
}

fn run(name: &str, case: Case) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let group = name.split("::").next().unwrap_or(name);
        let cx = Cx::new(group).await?;
        let outcome = case(&cx)
            .await
            .with_context(|| format!("in namespace {}", cx.namespace));
        if let Err(error) = &outcome {
            support::report(&cx, error).await;
        }
        // A failed case is cleaned up too, so that the next one meets the cluster it expects.
        let closed = cx.close().await;
        outcome.and(closed)
    })
}
