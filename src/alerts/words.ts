import type { ToldAlert } from './queries.ts'

/** What targets are told, in the form of each. */

/** A message of hundreds is not read: the rest is in mail.alerts_now. */
const MOST_IN_WORDS = 20

/** One line: of a single alert what it is about, of several how many. */
export function headlineOf(alerts: readonly ToldAlert[]): string {
  const [first] = alerts
  if (first !== undefined && alerts.length === 1) {
    return `${labelOf(first)}: ${nameOf(first)}`
  }
  const counts = [...Map.groupBy(alerts, labelOf)].map(([label, those]) => `${those.length} ${label}`)
  return `${alerts.length} alerts: ${counts.join(', ')}`
}

/** Each alert in a few lines; `emphasize` is how the medium sets off a line, and `quote` a command. */
export function textOf(
  alerts: readonly ToldAlert[],
  emphasize: (line: string) => string = (line) => line,
  quote: (command: string) => string = (command) => command,
): string {
  const shown = alerts.slice(0, MOST_IN_WORDS).map((alert) => linesOf(alert, emphasize, quote).join('\n'))
  const left = alerts.length - shown.length
  const more = left > 0 ? [`And ${left} more: ${quote('select * from mail.alerts_now;')}`] : []
  return [...shown, ...more].join('\n\n')
}

function linesOf(
  alert: ToldAlert,
  emphasize: (line: string) => string,
  quote: (command: string) => string,
): string[] {
  const heading = emphasize(`${labelOf(alert)}: ${nameOf(alert)}`)
  if (alert.event === 'resolved') {
    const at = alert.resolved_at === null ? '' : ` at ${momentOf(alert.resolved_at)}`
    return [heading, `Over${at}. It was: ${alert.what}`]
  }
  return [heading, alert.what, `Next in psql: ${quote(alert.command)}`, `On the dashboard: ${alert.page}`]
}

function labelOf({ event, severity }: ToldAlert): string {
  return event === 'resolved' ? 'resolved' : event === 'reminded' ? `still ${severity}` : severity
}

function nameOf({ rule, subject }: ToldAlert): string {
  return subject === '' ? rule : `${rule} (${subject})`
}

function momentOf(iso: string): string {
  return new Date(iso)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' UTC')
}

/**
 * The body of an incoming webhook of Slack (docs.slack.dev/messaging/sending-messages-using-incoming-webhooks): all of it in
 * `text`, which Mattermost, Rocket.Chat and others that take Slack's form read as well.
 */
export function slackBodyOf(alerts: readonly ToldAlert[]): string {
  // What would be a link or a mention must stay text: "Escaping text" of the same documentation.
  const escaped = (text: string) =>
    text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
  const escapedAlerts = alerts.map((alert) => ({
    ...alert,
    subject: escaped(alert.subject),
    what: escaped(alert.what),
    command: escaped(alert.command),
  }))
  const text = textOf(
    escapedAlerts,
    (line) => `*${line}*`,
    (command) => `\`${command}\``,
  )
  return JSON.stringify({ text: alerts.length === 1 ? text : `${headlineOf(alerts)}\n\n${text}` })
}

/** The body for a program: as Standard Webhooks has it, and the same at every attempt. */
export function genericBodyOf(alerts: readonly ToldAlert[], at: Date): string {
  return JSON.stringify({ type: 'alerts', timestamp: at.toISOString(), data: { alerts } })
}
