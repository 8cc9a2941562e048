import { alertOperations, alertTargetOperations } from './alerts.ts'
import { apiKeyOperations } from './api-keys.ts'
import { deadLetterOperations } from './dead-letters.ts'
import { emailOperations } from './emails.ts'
import { erasureOperations } from './erasures.ts'
import type { Operation } from './operation.ts'
import { scaleOperations } from './scale.ts'
import { serviceOperations } from './service.ts'
import { statsOperations } from './stats.ts'
import { providerOperations, streamOperations } from './streams.ts'
import { suppressionOperations } from './suppressions.ts'
import { templateOperations } from './templates.ts'
import { unsubscribeOperations } from './unsubscribe.ts'
import { providerWebhookOperations, webhookSourceOperations } from './webhook-sources.ts'
import { webhookOperations } from './webhooks.ts'

/** Every operation of the API; `npm run openapi` compares them with the routes. */
export const OPERATIONS: readonly Operation[] = [
  ...emailOperations,
  ...templateOperations,
  ...suppressionOperations,
  ...erasureOperations,
  ...deadLetterOperations,
  ...streamOperations,
  ...providerOperations,
  ...statsOperations,
  ...alertOperations,
  ...alertTargetOperations,
  ...apiKeyOperations,
  ...webhookOperations,
  ...webhookSourceOperations,
  ...providerWebhookOperations,
  ...unsubscribeOperations,
  ...scaleOperations,
  ...serviceOperations,
]
