// Made by `make rules`; don't edit it here. See docs/alerting.md.
local rules = import 'mixin.json';
{
  _config+:: {
    // What the links in alerts begin with.
    runbooksUrl: 'docs/runbooks',
    dashboardsUrl: '/d',
  },
  local config = self._config,
  local moved(url, from, to) = if std.startsWith(url, from) then to + url[std.length(from):] else url,
  local linked(rule) =
    if std.objectHas(rule, 'alert') then rule {
      annotations+: {
        runbook_url: moved(super.runbook_url, 'docs/runbooks', config.runbooksUrl),
        dashboard_url: moved(super.dashboard_url, '/d', config.dashboardsUrl),
      },
    } else rule,
  prometheusAlerts+:: {
    groups+: [group { rules: [linked(rule) for rule in super.rules] } for group in rules.alerts.groups],
  },
  prometheusRules+:: {
    groups+: rules.rules.groups,
  },
  grafanaDashboards+:: {
    'flowrra-exporter.json': import '../../grafana/dashboards/flowrra-exporter.json',
    'flowrra-overview.json': import '../../grafana/dashboards/flowrra-overview.json',
    'flowrra-queues.json': import '../../grafana/dashboards/flowrra-queues.json',
    'flowrra-scheduler.json': import '../../grafana/dashboards/flowrra-scheduler.json',
    'flowrra-task.json': import '../../grafana/dashboards/flowrra-task.json',
    'flowrra-tasks.json': import '../../grafana/dashboards/flowrra-tasks.json',
  },
}
