import type { Sizes } from './report.ts'

/** What the targets are about. */
export const FULL: Sizes = {
  messages: 10_000,
  rounds: 3,
  seconds: 10,
  idleMails: 500,
  waiting: [10_000, 100_000, 1_000_000],
  windowMails: 5_000,
  largeMails: 2_000,
  footprintMails: 20_000,
  providerMails: 5_000,
  pacingProcesses: [1, 2, 3, 4],
  // Less would not show a share within one percent.
  pacingSeconds: 20,
}

/** Whether everything works, and in which region the figures are; too little to compare with anything. */
export const QUICK: Sizes = {
  messages: 1_000,
  rounds: 1,
  seconds: 1,
  idleMails: 50,
  waiting: [1_000, 10_000],
  windowMails: 500,
  largeMails: 100,
  footprintMails: 1_000,
  providerMails: 500,
  pacingProcesses: [1, 2],
  pacingSeconds: 5,
}
export const QUICK_BURST_SCALE = 0.01
