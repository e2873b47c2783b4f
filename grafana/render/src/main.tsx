// Draws a dashboard's JSON with Grafana's own panel components, from a live Prometheus.
//
//   ?dashboard=NAME.json&prometheus=URL&range=SECONDS&interval=SECONDS&var-task=NAME
//
// Grafana's package has no heatmap: that one is drawn here. Annotations and links are not drawn.
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';
import {
  createTheme, DataFrame, dateTime, Field, FieldType, getDisplayProcessor, getFieldDisplayName, standardFieldConfigEditorRegistry,
  standardTransformers, standardTransformersRegistry, ThemeContext, toDataFrame, transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } from '@grafana/ui';
import { LegendDisplayMode, LoadingState } from '@grafana/schema';

const theme = createTheme({ colors: { mode: 'dark' } });
standardFieldConfigEditorRegistry.setInit(() => []);
standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation, editor: () => null, imageDark: '', imageLight: '',
  })) as any
);

const asked = new URLSearchParams(location.search);
const RANGE = Number(asked.get('range') ?? 300);
const NOW = Math.floor(Date.now() / 1000);
const FROM = NOW - RANGE;
const STEP = Math.max(1, Math.round(RANGE / 300));
const WIDTH = 1600;
const ROW = 38;
const NO_DATA = { color: '#aaa', padding: 8 };

// ── asking Prometheus ─────────────────────────────────────────────────────────────────────────────────────────────

function filledIn(expression: string): string {
  return expression
    .replaceAll('$__rate_interval', `${asked.get('interval') ?? 15}s`)
    .replaceAll('$__range', `${RANGE}s`)
    .replace(/\$([a-z]\w*)/g, (_, name) => asked.get(`var-${name}`) ?? '.+');
}

async function ask(path: string, parameters: Record<string, string>): Promise<any[]> {
  const answer = await (await fetch(`${asked.get('prometheus')}/api/v1/${path}?` + new URLSearchParams(parameters))).json();
  if (answer.status !== 'success') {
    throw new Error(answer.error);
  }
  return answer.data.result;
}

function worded(legend: string | undefined, labels: Record<string, string>): string {
  const named = legend ? legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '') : JSON.stringify(labels);
  return named.trim();
}

async function framesOf(target: any): Promise<DataFrame[]> {
  const query = filledIn(target.expr);
  const found = target.instant
    ? await ask('query', { query, time: String(NOW) })
    : await ask('query_range', { query, start: String(FROM), end: String(NOW), step: String(STEP) });
  if (target.format === 'table') {
    return found.length ? [tableOf(target, found)] : [];
  }
  return found.map((series) => {
    const points: any[] = target.instant ? [series.value] : gaps(series.values);
    const name = worded(target.legendFormat, series.metric);
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: points.map((point) => point[0] * 1000), config: {} },
        { name: 'Value', type: FieldType.number, labels: series.metric, config: { displayNameFromDS: name },
          values: points.map((point) => (point[1] === null ? null : Number(point[1]))) },
      ],
    });
  });
}

// Where Prometheus has no point, the line ends.
function gaps(points: any[]): any[] {
  const known = new Map(points.map((point) => [Math.round(point[0]), point[1]]));
  return Array.from({ length: Math.floor(RANGE / STEP) + 1 }, (_, i) => [FROM + i * STEP, known.get(FROM + i * STEP) ?? null]);
}

function tableOf(target: any, found: any[]): DataFrame {
  const labels = [...new Set(found.flatMap((series) => Object.keys(series.metric)))].filter((label) => label !== '__name__');
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: found.map(() => NOW * 1000), config: {} },
      ...labels.map((label) => ({ name: label, type: FieldType.string, values: found.map((s) => s.metric[label] ?? ''), config: {} })),
      { name: `Value #${target.refId}`, type: FieldType.number, values: found.map((s) => Number(s.value[1])), config: {} },
    ],
  });
}

async function load(panel: any): Promise<DataFrame[]> {
  const frames = (await Promise.all(panel.targets.map(framesOf))).flat();
  return configured(panel, panel.transformations ? await firstValueFrom(transformDataFrame(panel.transformations, frames)) : frames);
}

// ── as the panel says ─────────────────────────────────────────────────────────────────────────────────────────────

function thresholds(config: any): any {
  const steps = config?.steps ?? [{ value: null, color: 'green' }];
  return { mode: 'absolute', steps: steps.map((step: any) => ({ ...step, value: step.value ?? -Infinity })) };
}

function configOf(panel: any, field: Field, frame: DataFrame): any {
  const defaults = panel.fieldConfig?.defaults ?? {};
  const config: any = { ...field.config, ...defaults, thresholds: thresholds(defaults.thresholds), custom: { ...defaults.custom } };
  for (const override of panel.fieldConfig?.overrides ?? []) {
    if (override.matcher.options === getFieldDisplayName(field, frame)) {
      for (const { id, value } of override.properties) {
        if (id.startsWith('custom.')) {
          config.custom[id.slice('custom.'.length)] = value;
        } else if (id !== 'links') {
          config[id] = id === 'thresholds' ? thresholds(value) : value;
        }
      }
    }
  }
  config.color ??= { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  return config;
}

function configured(panel: any, frames: DataFrame[]): DataFrame[] {
  let index = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      if (field.type !== FieldType.time) {
        field.config = configOf(panel, field, frame);
      }
      if (field.type === FieldType.number) {
        const known = field.values.filter((value) => value !== null);
        const min = field.config.min ?? Math.min(...known), max = field.config.max ?? Math.max(...known);
        field.state = { ...field.state, range: { min, max, delta: max - min }, seriesIndex: index++ } as any;
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  }
  return frames;
}

// ── panels ────────────────────────────────────────────────────────────────────────────────────────────────────────

function Tile({ panel, frames, width, height }: any) {
  const field = frames[0]?.fields[1];
  const config = { ...panel.fieldConfig.defaults, thresholds: thresholds(panel.fieldConfig.defaults.thresholds) };
  const display = getDisplayProcessor({ field: { type: FieldType.number, config: { ...config, color: { mode: 'thresholds' } } }, theme });
  const value = field ? display(field.values[field.values.length - 1]) : display(null);
  return (
    <BigValue theme={theme} width={width} height={height} value={{ ...value, title: field?.config.displayNameFromDS }}
      colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode}
      textMode={field ? panel.options.textMode : 'value'} />
  );
}

function Graph({ frames, width, height }: any) {
  const range = { from: dateTime(FROM * 1000), to: dateTime(NOW * 1000), raw: { from: 'now-5m', to: 'now' } } as any;
  const legend = { displayMode: LegendDisplayMode.List, placement: 'bottom', calcs: [], showLegend: true } as any;
  return <TimeSeries frames={frames} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height} legend={legend} />;
}

// Per bucket what lies between it and the one below, as Grafana does with buckets of Prometheus.
function Heatmap({ frames, width, height }: any) {
  const rows = frames.map((frame: any) => ({ le: frame.fields[1].config.displayNameFromDS, values: frame.fields[1].values }));
  rows.sort((a: any, b: any) => (a.le === '+Inf' ? 1 : b.le === '+Inf' ? -1 : Number(a.le) - Number(b.le)));
  const cells = rows.map((row: any, i: number) => row.values.map((value: any, x: number) => (value ?? 0) - (i ? rows[i - 1].values[x] ?? 0 : 0)));
  const most = Math.max(...cells.flat(), 1e-9), left = 56, w = (width - left) / (cells[0]?.length ?? 1), h = (height - 4) / cells.length;
  return (
    <svg width={width} height={height}>
      {cells.map((row: any, i: number) => (
        <g key={i} transform={`translate(0 ${height - 4 - (i + 1) * h})`}>
          <text x={left - 6} y={h / 2 + 4} fill="#ccccdc" fontSize="11" textAnchor="end">{rows[i].le}</text>
          {row.map((value: number, x: number) => value > 1e-9 && (
            <rect key={x} x={left + x * w} y="0" width={w + 0.3} height={h - 1} fill={`rgba(255,140,40,${0.15 + 0.85 * Math.sqrt(value / most)})`} />
          ))}
        </g>
      ))}
    </svg>
  );
}

function Body({ panel, data, width, height }: any) {
  if (data.error) {
    return <div style={{ color: '#f55', padding: 8 }} className="error">{data.error}</div>;
  }
  if (panel.type === 'stat') {
    return <Tile panel={panel} frames={data.frames} width={width} height={height} />;
  }
  if (!data.frames.length) {
    return <div style={NO_DATA}>No data</div>;
  }
  if (panel.type === 'timeseries') {
    return <Graph frames={data.frames} width={width} height={height} />;
  }
  if (panel.type === 'heatmap') {
    return <Heatmap frames={data.frames} width={width} height={height} />;
  }
  return <Table data={data.frames[0]} width={width} height={height} initialSortBy={panel.options.sortBy} />;
}

function Panel({ panel, data }: any) {
  const { x, y, w, h } = panel.gridPos, width = (w * WIDTH) / 24 - 8, height = h * ROW - 8;
  const place = { position: 'absolute' as const, left: (x * WIDTH) / 24 + 4, top: y * ROW + 4, width, height };
  if (panel.type === 'row') {
    return <div style={{ ...place, color: '#ccc', font: '16px sans-serif', padding: 6 }}>▾ {panel.title}</div>;
  }
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={width} height={height} loadingState={LoadingState.Done}>
        {(inner: number, tall: number) => <Body panel={panel} data={data} width={inner} height={tall} />}
      </PanelChrome>
    </div>
  );
}

function Dashboard() {
  const [shown, show] = useState<any>(null);
  useEffect(() => {
    (async () => {
      const { panels } = await (await fetch(asked.get('dashboard')!)).json();
      const one = (panel: any) => load(panel).then((frames) => ({ frames }), (error) => ({ error: String(error) }));
      show({ panels, data: await Promise.all(panels.map((panel: any) => (panel.targets ? one(panel) : { frames: [] }))) });
      setTimeout(() => { document.title = 'ready'; }, 1500);
    })();
  }, []);
  if (!shown) {
    return null;
  }
  const height = Math.max(...shown.panels.map((panel: any) => (panel.gridPos.y + panel.gridPos.h) * ROW)) + 8;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: 'relative', width: WIDTH, height }}>
        {shown.panels.map((panel: any, i: number) => <Panel key={panel.id} panel={panel} data={shown.data[i]} />)}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')!).render(<Dashboard />);
