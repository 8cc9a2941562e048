/** docs/deploy/kubernetes and prometheus-adapter: what an API server would accept, and what this version of the service understands. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { IProbe } from 'kubernetes-models/v1/Probe'
import { createTestDatabase, makeTestDirectory } from '../support/database.ts'
import { startTestService } from '../support/service.ts'
import {
  asProgram,
  environmentOf,
  find,
  type Manifest,
  type Pod,
  podsOf,
  readManifests,
  readYaml,
} from './manifests.ts'
import { GIVE_UP_MS, readDeployed } from './settings.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
/** The user `node` of the official images. */
const NODE_USER = 1000

let manifests: Manifest[] = []
let pods: Pod[] = []
before(async () => {
  manifests = await readManifests()
  pods = podsOf(manifests)
})

test('every manifest fits the schema of its kind', () => {
  assert.ok(manifests.length > 0)
  for (const manifest of manifests) {
    assert.doesNotThrow(() => manifest.validate(), `${manifest.file}: ${manifest.kind} ${manifest.name}`)
  }
})

test('no manifest has a field that its kind does not know', async (t) => {
  const directory = await makeTestDirectory(t)
  await symlink(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
  await writeFile(join(directory, 'package.json'), '{"type": "module"}')
  const compile = async (program: string) => {
    await writeFile(join(directory, 'manifests.ts'), program)
    const flags = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--types', '']
    return promisify(execFile)(
      process.execPath,
      [join(ROOT, 'node_modules/typescript/bin/tsc'), ...flags, 'manifests.ts'],
      { cwd: directory },
    ).then(
      () => '',
      (error: { stdout: string }) => error.stdout,
    )
  }
  const program = asProgram(manifests)
  assert.equal(await compile(program), '')
  const misspelt = program.replace('"readinessProbe"', '"readynessProbe"')
  assert.match(await compile(misspelt), /readynessProbe/)
})

test('all is in one namespace, and what refers to something finds it', () => {
  for (const { kind, name, written } of manifests) {
    assert.equal(written.metadata?.namespace, kind === 'Namespace' ? undefined : 'sluice', `${kind} ${name}`)
  }
  const api = pods.find(({ owner }) => owner === 'sluice-api')
  for (const selector of [
    find(manifests, 'Deployment', 'sluice-api').spec?.selector.matchLabels,
    find(manifests, 'Service', 'sluice-api').spec?.selector,
    find(manifests, 'PodDisruptionBudget', 'sluice-api').spec?.selector?.matchLabels,
  ]) {
    assert.deepEqual(selector, api?.labels)
  }
  const [port] = find(manifests, 'Service', 'sluice-api').spec?.ports ?? []
  assert.ok(api?.container.ports?.some(({ name }) => name === port?.targetPort))
  const images = new Set(pods.map(({ container }) => container.image))
  assert.equal(images.size, 1)
})

test('every process starts with the environment it is given', async () => {
  const roles = Object.fromEntries(
    pods.map((pod) => [pod.owner, [...readDeployed(environmentOf(manifests, pod)).roles]]),
  )
  assert.deepEqual(roles, {
    'sluice-api': ['api'],
    'sluice-worker': ['worker'],
    // `migrate` has no roles: these are the ones that it does not look at.
    'sluice-migrate': ['api', 'worker'],
  })
  for (const pod of pods) {
    assert.equal(readDeployed(environmentOf(manifests, pod)).isProduction, true)
    // Services called sluice-… would add SLUICE_API_SERVICE_HOST and the like.
    assert.equal(pod.spec.enableServiceLinks, false, pod.owner)
  }
  assert.throws(
    () => readDeployed({ SLUICE_API_SERVICE_HOST: '10.0.0.1' }),
    /SLUICE_API_SERVICE_HOST/,
    'otherwise they would do no harm',
  )
})

test('ports are those that the process listens on, and it listens to the cluster', () => {
  for (const pod of pods.filter(({ container }) => container.ports !== undefined)) {
    const environment = environmentOf(manifests, pod)
    const ports = { http: environment.PORT, metrics: environment.SLUICE_METRICS_PORT }
    for (const { name, containerPort } of pod.container.ports ?? []) {
      assert.equal(String(containerPort), ports[name as keyof typeof ports], `${pod.owner} ${name}`)
    }
    assert.equal(environment.HOST, '0.0.0.0')
  }
})

test('probes and the rule of prometheus-adapter ask for what is there, by a port that is there', async (t) => {
  const database = await createTestDatabase(t)
  const start = (role: string) =>
    startTestService(database, {
      SLUICE_ROLES: role,
      SLUICE_METRICS_PORT: '0',
      SMTP_URL: 'smtp://127.0.0.1:9',
    })
  const [api, worker] = [await start('api'), await start('worker')]
  for (const { owner, container } of pods.filter(({ owner }) => owner !== 'sluice-migrate')) {
    const probes: (IProbe | undefined)[] = [
      container.startupProbe,
      container.livenessProbe,
      container.readinessProbe,
    ]
    assert.deepEqual(
      probes.map((probe) => probe?.httpGet?.path),
      ['/healthz', '/healthz', '/readyz'],
      owner,
    )
    for (const probe of probes) {
      assert.ok(container.ports?.some(({ name }) => name === probe?.httpGet?.port))
      const { url, metricsUrl } = owner === 'sluice-api' ? api : worker
      const port = probe?.httpGet?.port === 'metrics' ? metricsUrl : url
      assert.equal((await fetch(new URL(probe?.httpGet?.path ?? '', port))).status, 200)
    }
  }
  const [rules] = (await readYaml('prometheus-adapter/rules.yaml')) as {
    externalRules: { seriesQuery: string }[]
  }[]
  const metrics = await (await fetch(new URL('/metrics', worker.metricsUrl))).text()
  for (const { seriesQuery } of rules?.externalRules ?? []) {
    assert.ok(metrics.includes(`# TYPE ${seriesQuery} gauge`), seriesQuery)
  }
})

test('a pod has time to finish before it is killed', () => {
  for (const pod of pods.filter(({ owner }) => owner !== 'sluice-migrate')) {
    const { stopTimeoutMs } = readDeployed(environmentOf(manifests, pod))
    const [program, seconds] = pod.container.lifecycle?.preStop?.exec?.command ?? ['sleep', '0']
    assert.equal(program, 'sleep')
    const neededMs = Number(seconds) * 1_000 + stopTimeoutMs + GIVE_UP_MS
    const graceMs = (pod.spec.terminationGracePeriodSeconds ?? 30) * 1_000
    assert.ok(graceMs >= neededMs, `${pod.owner}: ${graceMs} ms of ${neededMs}`)
  }
})

test('containers run as the user of the image, without rights and without a disk to write to', async () => {
  const dockerfile = await readFile(join(ROOT, 'Dockerfile'), 'utf8')
  const image = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '))
  assert.match(image, /^\nFROM node:.*\n[\s\S]*^USER node$/m)
  const [, workdir, command] =
    /WORKDIR (\S+)[\s\S]*CMD (\[.*\])\n$/.exec(image.slice(image.indexOf('WORKDIR'))) ?? []
  assert.equal(workdir, '/sluice')
  for (const { owner, spec, container } of pods) {
    assert.equal(spec.securityContext?.runAsNonRoot, true, owner)
    assert.equal(spec.securityContext?.runAsUser, NODE_USER, owner)
    assert.equal(spec.automountServiceAccountToken, false, owner)
    assert.deepEqual(container.securityContext, {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    })
    // A command of its own goes through the same file as the image's.
    if (container.command !== undefined) {
      assert.deepEqual(container.command, [...JSON.parse(command ?? '[]'), 'migrate'])
    }
  }
})

test('secrets are placeholders', () => {
  const secrets = manifests.filter(({ kind }) => kind === 'Secret')
  assert.equal(secrets.length, 3)
  for (const { name } of secrets) {
    for (const value of Object.values(find(manifests, 'Secret', name).stringData ?? {})) {
      assert.match(value, /CHANGE_ME/)
    }
  }
})

test('KEDA reads the number of workers from GET /scale, with a key that may do no more than read', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  const scaled = find(manifests, 'ScaledObject', 'sluice-worker').spec
  const [trigger] = scaled?.triggers ?? []
  const { url = '', valueLocation = '', authMode, targetValue } = trigger?.metadata ?? {}
  assert.ok(find(manifests, 'Deployment', scaled?.scaleTargetRef.name ?? ''))
  const [port] = find(manifests, 'Service', 'sluice-api').spec?.ports ?? []
  const { hostname, port: urlPort, pathname } = new URL(url)
  assert.equal(hostname, 'sluice-api.sluice.svc.cluster.local')
  assert.equal(Number(urlPort || 80), port?.port)
  assert.deepEqual([trigger?.type, authMode, targetValue], ['metrics-api', 'bearer', '1'])

  const reference = find(manifests, 'TriggerAuthentication', trigger?.authenticationRef?.name ?? '').spec
  const [secret] = reference?.secretTargetRef ?? []
  assert.equal(secret?.parameter, 'token')
  assert.ok(find(manifests, 'Secret', secret?.name ?? '').stringData?.[secret?.key ?? ''])

  const made = await service.request('/api-keys', { body: { name: 'keda', scope: 'read' } })
  const { token } = (await made.json()) as { token: string }
  const answer = await service.request(pathname, { headers: { Authorization: `Bearer ${token}` } })
  assert.equal(answer.status, 200)
  const scale = (await answer.json()) as Record<string, unknown>
  const [setting] = await database.query<{ min_workers: number; max_workers: number }>(
    'select min_workers, max_workers from mail.scale_setting',
  )
  assert.deepEqual(
    [scaled?.minReplicaCount, scaled?.maxReplicaCount],
    [setting?.min_workers, setting?.max_workers],
  )
  assert.equal(scale[valueLocation], setting?.min_workers)
})

test('behind prometheus-adapter an autoscaler follows the metric that the rule makes, within the bounds of KEDA', async () => {
  const [rules] = (await readYaml('prometheus-adapter/rules.yaml')) as {
    externalRules: { seriesQuery: string; name: { as: string } }[]
  }[]
  const spec = find(manifests, 'HorizontalPodAutoscaler', 'sluice-worker').spec
  const [metric] = spec?.metrics ?? []
  assert.deepEqual(
    rules?.externalRules.map(({ name }) => name.as),
    [metric?.external?.metric.name],
  )
  assert.deepEqual(metric?.external?.target, { type: 'AverageValue', averageValue: '1' })
  const keda = find(manifests, 'ScaledObject', 'sluice-worker').spec
  assert.deepEqual([spec?.minReplicas, spec?.maxReplicas], [keda?.minReplicaCount, keda?.maxReplicaCount])
  assert.deepEqual(
    spec?.behavior?.scaleDown,
    keda?.advanced?.horizontalPodAutoscalerConfig?.behavior?.scaleDown,
  )
  assert.ok(find(manifests, 'Deployment', spec?.scaleTargetRef.name ?? ''))
})
