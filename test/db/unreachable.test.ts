import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DatabaseUnreachableError } from '../../src/db/unreachable.ts'
import { explainTls } from '../../src/db/verified-tls.ts'

const URL_OF = 'postgresql://app:hidden@db.example.com:5432/mail'

test('a name with several addresses is told of with a reason for each', () => {
  const refused = (address: string) => new Error(`connect ECONNREFUSED ${address}`)
  const cause = Object.assign(new AggregateError([refused('::1:5432'), refused('127.0.0.1:5432')]), {
    code: 'ECONNREFUSED',
  })
  const { message } = new DatabaseUnreachableError(URL_OF, cause)
  assert.match(
    message,
    /^db\.example\.com:5432\/mail cannot be reached: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127\.0\.0\.1:5432\.\nWhat to do: start Postgres there/,
  )
  assert.doesNotMatch(message, /hidden/)
})

test('each refusal is told of with what to change', () => {
  const cases = [
    ['password authentication failed for user "app"', '28P01', /correct user and password in its URL/],
    [
      'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string',
      undefined,
      /write user and password into its URL/,
    ],
    ['self-signed certificate in certificate chain', 'SELF_SIGNED_CERT_IN_CHAIN', /sslrootcert/],
    ['timeout expired', undefined, /check host, port and firewall/],
  ] as const
  for (const [text, code, advice] of cases) {
    const { message } = new DatabaseUnreachableError(URL_OF, Object.assign(new Error(text), { code }))
    assert.match(message, new RegExp(`\\nWhat to do: .*${advice.source}`))
  }
})

test('a password that is missing is not taken for a fault of TLS', () => {
  const missing = new Error('SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string')
  assert.equal(explainTls(URL_OF, missing), missing)
})
