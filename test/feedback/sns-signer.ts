import { createSign } from 'node:crypto'

/** Certificates and a key of nobody, made for these tests; valid for a hundred years from November 2026. */

const SIGNER_KEY = `-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQCH0C87PIClZ5cv
4y87AKguscWdr36O/6K/JjWBYyZgcD8VXZ5fn60Zjzyvy/wKcty93cf0jsYd2L0M
vTAwab/pRZN0kZO/T0PBpE5/o9PEVn6SpSmzFFh0MAd0O7uIwt1oFIsjHt2eK4Hq
vYuQCFbumI4bL1TctxCEly2B7YI2LPiJZXt1R8/ckuv2N3Mt1xT5bwOPfaPPxwHK
xuG6PvxpdtlbUH9IZllNUhmMykf2U/E4m3yVz0YCfmFloRmf5hCd8KxKZ5UEBQpr
7omyAaRhoGaJhtXv1aBkhfpUi78Cirvw892CGF5K26ZPwSxizt8v/U4JzE25Gocp
Dzmf38SpAgMBAAECggEAFVeoYckvYuQlXz+hgkanUfXaxbMN6DU7ozPtxZWfXW6r
jdUmmFqp45yISgymthJN0RfN89xkks0mtvPwuN2YFyA5Z2Ch1LcFQU7A4pBhV3cg
2zT8RBQ8QD9J9JXscbXvADZLlSslDYBDIXCZmCVPWp2mUJb+ttPyfbuaHv2uxYok
qrtoeLsl5OdfReFgxR3hzCcYNMzIANvvcBcdbJpXdlc78I0YtTeQiKZF9gjLXvg+
G96Q+r+sKgTUBmdBCMgJQgAdCE5Cyqzn98ZIvOwFg/3KDOJ8nnOp/dXuGL0ovuYt
cBUkzxXIKvLbQV4dMiGaN4qTSWG/7af8SPjoRZtplwKBgQC/+Ef/F+tfgG/p17qi
l7ZkSDCR/b+eyNyQ/Hs1+Oip7smhcJRowrWTJ+YAAO1sv1/fwto0y1GVgUcUPlev
c3T5j9E0tkxs6m42rj4n06qHhsjBYSWQurkDfhO82inQqYnnsWYH2sFLi22lZQBt
7VgDI4OxtwfwwM6x1o+e+5q4ewKBgQC1HNxDhnjOXlWJ3b5Gzq2bk0gBNYwaXyf6
yqT4UXcIWb144eOItmVCivO8AmeIYksP78/VfFUCOvyDVyvdgHQBcwAu+yLOW9uO
zJnnHl2uQsIvH4rU2sHU64ThbX3rrZ+Gitk7tznLIOTlAl3IJJWDIplVKqJb7rDp
j6rNzkHYKwKBgQCHNUkIS4GVRzILws0KHc7x/MJw4QcowBJR7/KcBg9hOPU8xr1Q
t+sJlW1yjTSshnHxeR0VWCrDIUW95Vb/FVPLPlc8SDW19LvhuYG/rV6LjAwz38eE
k28iHZerSQFwnSirTpAtcg74tWBpwKS3yBZYR5hHAEIQeMxcB2IquM21pwKBgEbT
g3vQsZuann7svYV5O8E0Zps6cpC5l6vm5X7KdO9KEOOeCtoi4hSUvF5Q3mYiclJI
KRHGroPRx4AhbeEQY81RSMgWo/TpTUJZ1vHgGSiVqNS+1A8LgXOfqvZxWCX7XwBB
elR1Ad/i/EBmnYAwdluzAx2gL6AeBwc/jL8xIuTDAoGBALDzd9LTO0090o2k5se4
h91AW+di/OueorFgIKIoJETj4eFkOtlkahvAQUNWUlUR077rB+pZyGGXXfZ1kkLc
K3S5SrXWQEU/jDCaMZhmRSr3iNMUkHvOTx/RBM1dj9SFi5pM2TZYVtBASdrJf/U+
+vadlQy18aTcII+2M2AjqofO
-----END PRIVATE KEY-----
`

/** CN sns.amazonaws.com, without alternative names. */
export const SIGNER_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIDNTCCAh2gAwIBAgIUMST0YWCv02B9FwQ4LDGsTtGUGhQwDQYJKoZIhvcNAQEL
BQAwKTELMAkGA1UEBhMCVVMxGjAYBgNVBAMMEXNucy5hbWF6b25hd3MuY29tMCAX
DTI2MTEyMTIxMjUzMFoYDzIxMjYxMDI4MjEyNTMwWjApMQswCQYDVQQGEwJVUzEa
MBgGA1UEAwwRc25zLmFtYXpvbmF3cy5jb20wggEiMA0GCSqGSIb3DQEBAQUAA4IB
DwAwggEKAoIBAQCH0C87PIClZ5cv4y87AKguscWdr36O/6K/JjWBYyZgcD8VXZ5f
n60Zjzyvy/wKcty93cf0jsYd2L0MvTAwab/pRZN0kZO/T0PBpE5/o9PEVn6SpSmz
FFh0MAd0O7uIwt1oFIsjHt2eK4HqvYuQCFbumI4bL1TctxCEly2B7YI2LPiJZXt1
R8/ckuv2N3Mt1xT5bwOPfaPPxwHKxuG6PvxpdtlbUH9IZllNUhmMykf2U/E4m3yV
z0YCfmFloRmf5hCd8KxKZ5UEBQpr7omyAaRhoGaJhtXv1aBkhfpUi78Cirvw892C
GF5K26ZPwSxizt8v/U4JzE25GocpDzmf38SpAgMBAAGjUzBRMB0GA1UdDgQWBBS0
lKyWX/DxEbe+van2euqB7ZypqjAfBgNVHSMEGDAWgBS0lKyWX/DxEbe+van2euqB
7ZypqjAPBgNVHRMBAf8EBTADAQH/MA0GCSqGSIb3DQEBCwUAA4IBAQAAF3gz4y4A
ZMxpp9p6N1T1ocrDWZIFH/8yhtziUvimC3RZc5yUL7Bpr2+ynrdSpePkpo6wuuql
WnrvXzQ+ptQ69MebAxUv+HrRBdo6fCOms+kShenesclRlNV8Ok3R8gCxTuj8/6K5
ln++Xod8oNltXNbG5PnlJYGy9ztQzhLqVRx3G6bkNEKo1WVHdoQmYuv0fdLKY9Wt
4GQGZ05tiohEFR7363BUQyRwl32gvwEkZQx1htITvwBKULMmEBUNZqQgs7nhKKgF
uukL3Z0+4n9g7o/mJGrlt6wqnR15999XgZDO/ABKe8gFwxC6Qb6MfCniRPBVOGKC
m+O3K/QhAYLE
-----END CERTIFICATE-----
`

/** For the same key, CN sns.example.com. */
export const STRANGER_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIDMTCCAhmgAwIBAgIUA0/D1g35r1Yr1A/ejd6cuI1hhCIwDQYJKoZIhvcNAQEL
BQAwJzELMAkGA1UEBhMCVVMxGDAWBgNVBAMMD3Nucy5leGFtcGxlLmNvbTAgFw0y
NjExMjEyMTI1MzBaGA8yMTI2MTAyODIxMjUzMFowJzELMAkGA1UEBhMCVVMxGDAW
BgNVBAMMD3Nucy5leGFtcGxlLmNvbTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCC
AQoCggEBAIfQLzs8gKVnly/jLzsAqC6xxZ2vfo7/or8mNYFjJmBwPxVdnl+frRmP
PK/L/Apy3L3dx/SOxh3YvQy9MDBpv+lFk3SRk79PQ8GkTn+j08RWfpKlKbMUWHQw
B3Q7u4jC3WgUiyMe3Z4rgeq9i5AIVu6YjhsvVNy3EISXLYHtgjYs+Ille3VHz9yS
6/Y3cy3XFPlvA499o8/HAcrG4bo+/Gl22VtQf0hmWU1SGYzKR/ZT8TibfJXPRgJ+
YWWhGZ/mEJ3wrEpnlQQFCmvuibIBpGGgZomG1e/VoGSF+lSLvwKKu/Dz3YIYXkrb
pk/BLGLO3y/9TgnMTbkahykPOZ/fxKkCAwEAAaNTMFEwHQYDVR0OBBYEFLSUrJZf
8PERt769qfZ66oHtnKmqMB8GA1UdIwQYMBaAFLSUrJZf8PERt769qfZ66oHtnKmq
MA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBAA5zca6949gF/n4w
Vg+VkvFL9un4jZceU/n1H+XLCcdLk0A2N4fMZueUXfjQaFGT4PSYD3aIb23dG5fy
Co30si/m6ErDr+Akoer1d7r/bctIHmKxDWidibx9eY+dQENJzr1q0YR2ykEfmCGo
WjxjxEa9hjTKQIOmFYDdCfpEVL5Y0K3308Rr4LKFsnmPFu4nlAv/cA4+ZH8WBoeW
vIXpXQy3vylQqHvBOzPldoiLh0b8HfYhysUCTLkaHBdoEJ0oSBq5yZnG/g5Xtacz
kkJWjuWdKHd70AAAAiJZ0+1IQ/hEEUM2vp3JvZyJ53e7LjVoyMQzHa/FWwC5AkYE
S/UNfUc=
-----END CERTIFICATE-----
`

/** For the same key, with the alternative names of one region only, signed by `CA_CERTIFICATE`. */
export const REGIONAL_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIDYjCCAkqgAwIBAgIUSSgiuuwcJgWHMfXxcPl8JnGjnDkwDQYJKoZIhvcNAQEL
BQAwEjEQMA4GA1UEAwwHVGVzdCBDQTAgFw0yNjExMjEyMTI1MzBaGA8yMTI2MTAy
ODIxMjUzMFowLzEtMCsGA1UEAwwkc25zLXNpZ25pbmcuZXUtc291dGgtMS5hbWF6
b25hd3MuY29tMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAh9AvOzyA
pWeXL+MvOwCoLrHFna9+jv+ivyY1gWMmYHA/FV2eX5+tGY88r8v8CnLcvd3H9I7G
Hdi9DL0wMGm/6UWTdJGTv09DwaROf6PTxFZ+kqUpsxRYdDAHdDu7iMLdaBSLIx7d
niuB6r2LkAhW7piOGy9U3LcQhJctge2CNiz4iWV7dUfP3JLr9jdzLdcU+W8Dj32j
z8cBysbhuj78aXbZW1B/SGZZTVIZjMpH9lPxOJt8lc9GAn5hZaEZn+YQnfCsSmeV
BAUKa+6JsgGkYaBmiYbV79WgZIX6VIu/Aoq78PPdghheStumT8EsYs7fL/1OCcxN
uRqHKQ85n9/EqQIDAQABo4GQMIGNMEsGA1UdEQREMEKCI3Nucy1zaWduaW5nLmV1
LXdlc3QtMS5hbWF6b25hd3MuY29tghtzbnMuZXUtd2VzdC0xLmFtYXpvbmF3cy5j
b20wHQYDVR0OBBYEFLSUrJZf8PERt769qfZ66oHtnKmqMB8GA1UdIwQYMBaAFBxs
1EgIhf20TZBOYUaYqx86DOgoMA0GCSqGSIb3DQEBCwUAA4IBAQAgkyG2tZWyZIgX
WsnnTDiU6j1JM+GRDTVixBI77dvhiHdpGcHgmdAWNDu6c/wNfQdpbec16eIxEHUF
cbiMie9SIiF2SEC0FscHmDgvHob2pT189sw4dys7mlVazDlykiUugyRbTrzSX5Cn
pRNLIEjmkwdwhx45/VB8hZIJ1JOW6OQ299B4DUlMi8hBrn1g20U/w4rHgh0xR1uh
jZaIERkX9saF+4AwJEufj7WNSPXLrj1gR9TXRyMkXog6A2YTv6gCJ2sdgge8jvhX
NHff1GPfZGUOPinnoPQM+9ObWxelE0aKU7OYjnl3cBAVxwSLNU0oXV2jrFELkavA
YFpRkKTK
-----END CERTIFICATE-----
`

export const CA_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIDBzCCAe+gAwIBAgIUFxXkfWHhNz6bAMRphAyRQ0QTWDAwDQYJKoZIhvcNAQEL
BQAwEjEQMA4GA1UEAwwHVGVzdCBDQTAgFw0yNjExMjEyMTI1MzBaGA8yMTI2MTAy
ODIxMjUzMFowEjEQMA4GA1UEAwwHVGVzdCBDQTCCASIwDQYJKoZIhvcNAQEBBQAD
ggEPADCCAQoCggEBANbggKhZb1ZK/qv8lnPdZyEE6/AKsuv4CI3n9frssA0rBaUR
VGoRaq3xDfN5HetZJNsd6sqvh01cAYmmIedar9ctnZ90t/Jf6XvKomjpl3ymaUht
xlhM1fNPJx48QkZn5lod1tbJIynToAy0Bf/eL133pjA3z4B/4Ro8qmnMiANQTr6d
hNc0FmJwKBQtUXTg2cfNBFY9x6hn9dy3qzVO/oUnld4GomBf3fD21ff0BxQvKjPa
4iaSpCP2i9XlNgU7kiXy4Io8GN/auDR3wsYEebn5SGVS2OnjfApWDf1jRWxVc+7R
YCLrywRi8aRsAGXOFE28yjwjIVPufnGr8ggBc/UCAwEAAaNTMFEwHQYDVR0OBBYE
FBxs1EgIhf20TZBOYUaYqx86DOgoMB8GA1UdIwQYMBaAFBxs1EgIhf20TZBOYUaY
qx86DOgoMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBADKuojx8
3XF5i90JAjYwoeHDJyRa4ORS/hFOvP2kEh3Ca2lEsY+7fK1A7Hc0oeZc4FqDystJ
bvAMk+xRwTkb7g/2f0w69pv7Hi9Pi/xx9vRxmOYW6o1tQOT5A5WKCB+gT0vIaF55
vYUiE9JsWovjZ8c4fsku4cOetSGUsxd1djArnl+lGEtxHrTbYqCXq4skCe+iTZP9
KuSiAQdU8DRKg5g/f2kFCTNomPm00Bwi5zZIF4AIkUsGVg9Z7gmMmN6FDDCc5D5d
z6WuMfSARQl/Dg9wbOs3eV7X2rygGGmUcbW3wuhIRBFRhO4Kql/H4eMxD9D+tdBI
NGu3yfgxK5S62UM=
-----END CERTIFICATE-----
`

export const TOPIC = 'arn:aws:sns:eu-west-1:123456789012:mail-events'
export const CERTIFICATE_URL =
  'https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem'

/** A moment at which the certificates are valid. */
export const SNS_NOW = Date.UTC(2027, 0, 15, 12)

export type SnsMessage = Record<string, string | null | undefined>

/** A message as SNS sends it, signed after the changes; a field that is undefined is left out. */
export function snsMessage(changes: SnsMessage = {}): SnsMessage {
  const isSubscription = changes.Type === 'SubscriptionConfirmation'
  const message: SnsMessage = {
    Type: 'Notification',
    MessageId: '22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324',
    TopicArn: TOPIC,
    Message: '{"notificationType":"Delivery"}',
    Timestamp: new Date(SNS_NOW - 1_000).toISOString(),
    SignatureVersion: '2',
    SigningCertURL: CERTIFICATE_URL,
    ...(isSubscription
      ? { Token: 'a-token', SubscribeURL: 'https://evil.example/?Action=ConfirmSubscription' }
      : {}),
    ...changes,
  }
  const names = isSubscription
    ? ['Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type']
    : ['Message', 'MessageId', 'Subject', 'Timestamp', 'TopicArn', 'Type']
  const signed = names
    .filter((name) => typeof message[name] === 'string')
    .map((name) => `${name}\n${message[name]}\n`)
    .join('')
  const algorithm = message.SignatureVersion === '1' ? 'RSA-SHA1' : 'RSA-SHA256'
  return { ...message, Signature: createSign(algorithm).update(signed).sign(SIGNER_KEY, 'base64') }
}
