import type { EmailAnswer, ListedEmailAnswer } from './email-answers.ts'

export const LISTED_EMAIL: ListedEmailAnswer = {
  id: '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e',
  message_id: '<019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e@example.com>',
  to: ['Ann <ann@example.com>'],
  from: 'Shop <shop@example.com>',
  created_at: '2026-11-21 09:30:00.125410+00',
  subject: 'Your order 1042',
  bcc: [],
  cc: [],
  reply_to: [],
  last_event: 'delivered',
  scheduled_at: null,
  tags: [{ name: 'kind', value: 'order' }],
  status: 'delivered',
  stream: 'transactional',
  sensitive: false,
}

export const EMAIL: EmailAnswer = {
  object: 'email',
  ...LISTED_EMAIL,
  html: '<p>Thank you, Ann.</p>',
  text: null,
  attachments: [],
  metadata: {},
  content_removed: false,
  priority: 3,
  provider: 'default',
  provider_message_id: null,
  attempts: 1,
  sent_at: '2026-11-21T09:30:00.431Z',
  next_attempt_at: null,
  template: null,
  error: null,
  timeline: [
    { at: '2026-11-21T09:30:00.12541+00:00', type: 'accepted', recipient: null, detail: null },
    { at: '2026-11-21T09:30:00.431002+00:00', type: 'sent', recipient: null, detail: null },
    { at: '2026-11-21T09:30:02.9+00:00', type: 'delivered', recipient: 'ann@example.com', detail: null },
  ],
}
