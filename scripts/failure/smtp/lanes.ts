import { FRIENDLY, LOGIN, OPENING, TLS } from './connection-misdeeds.ts'
import { CUT, HELD, LONG_LETTER, NONSENSE, ODD, REFUSALS, SILENCE, THROTTLING } from './mail-misdeeds.ts'
import type { Misdeed } from './misdeed.ts'

/** A provider with a stream of its own: misdeeds that go with the same URL and the same rules. */
export type Lane = {
  readonly name: string
  readonly misdeeds: readonly Misdeed[]
  readonly onUnknown?: 'hold'
  /** In the answer to EHLO. */
  readonly offers?: readonly string[]
  /** At first nothing listens there. */
  readonly isAbsent?: true
  /** Of the SMTP URL: with its `@`. */
  readonly user?: string
  readonly parameters: string
  /** The provider as a whole is left alone for a while; `may`: unless we gave up before it said so. */
  readonly pauses?: 'must' | 'may'
}

/** For misdeeds that are over when we give up waiting. */
const BRIEF = 'connect_timeout_s=3&greeting_timeout_s=2&socket_timeout_s=2'
/** Long enough for a machine that is busy with other things. */
const PATIENT = 'connect_timeout_s=20&greeting_timeout_s=20&socket_timeout_s=20'

export const LANES: readonly Lane[] = [
  {
    name: 'well',
    misdeeds: [{ does: 'nothing bad', acts: {}, ends: 'sent', copies: 1 }],
    parameters: PATIENT,
  },
  {
    name: 'opening',
    misdeeds: [...OPENING, ...TLS, ...LOGIN],
    offers: ['STARTTLS', 'AUTH PLAIN'],
    user: 'user:passport@',
    parameters: `tls=required&${BRIEF}`,
    pauses: 'may',
  },
  {
    name: 'talk',
    misdeeds: [...FRIENDLY, ...REFUSALS, ...NONSENSE, ...CUT, ...ODD],
    offers: ['SIZE 99999999'],
    parameters: PATIENT,
  },
  { name: 'silence', misdeeds: SILENCE, parameters: BRIEF },
  { name: 'held', misdeeds: HELD, onUnknown: 'hold', parameters: BRIEF },
  { name: 'throttling', misdeeds: THROTTLING, parameters: PATIENT, pauses: 'must' },
  {
    name: 'absent',
    misdeeds: [
      {
        does: 'refuses the connection',
        acts: {},
        isOfConnection: true,
        ends: 'unreachable connect_failed, sent',
        copies: 1,
      },
      {
        does: 'refuses the connection, and then takes no more than 5,000 bytes',
        acts: {},
        isOfConnection: true,
        mail: LONG_LETTER,
        ends: 'unreachable connect_failed, dead message_too_large',
        copies: 0,
      },
    ],
    offers: ['SIZE 5000'],
    isAbsent: true,
    parameters: PATIENT,
  },
]
