/** A delivery and its job are one: `msg_` and the digits of the job's id. */
export function jobIdOf(delivery: string): string {
  return delivery.slice('msg_'.length).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

export function deliveryOfJob(job: string): string {
  return `msg_${job.replaceAll('-', '')}`
}
