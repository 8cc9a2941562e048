import { readdir, readFile } from 'node:fs/promises'
import { ScaledObject } from '@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject'
import { TriggerAuthentication } from '@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication'
import { Deployment } from 'kubernetes-models/apps/v1/Deployment'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2/HorizontalPodAutoscaler'
import { Job } from 'kubernetes-models/batch/v1/Job'
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1/PodDisruptionBudget'
import { ConfigMap } from 'kubernetes-models/v1/ConfigMap'
import type { IContainer } from 'kubernetes-models/v1/Container'
import { Namespace } from 'kubernetes-models/v1/Namespace'
import type { IPodSpec } from 'kubernetes-models/v1/PodSpec'
import { Secret } from 'kubernetes-models/v1/Secret'
import { Service } from 'kubernetes-models/v1/Service'
import { parseAllDocuments } from 'yaml'

/** Every kind that the files have, with the module whose type of it is called `I` and its name. */
const MODELS = {
  Namespace: { model: Namespace, module: 'kubernetes-models/v1/Namespace' },
  ConfigMap: { model: ConfigMap, module: 'kubernetes-models/v1/ConfigMap' },
  Secret: { model: Secret, module: 'kubernetes-models/v1/Secret' },
  Service: { model: Service, module: 'kubernetes-models/v1/Service' },
  Deployment: { model: Deployment, module: 'kubernetes-models/apps/v1/Deployment' },
  Job: { model: Job, module: 'kubernetes-models/batch/v1/Job' },
  PodDisruptionBudget: {
    model: PodDisruptionBudget,
    module: 'kubernetes-models/policy/v1/PodDisruptionBudget',
  },
  HorizontalPodAutoscaler: {
    model: HorizontalPodAutoscaler,
    module: 'kubernetes-models/autoscaling/v2/HorizontalPodAutoscaler',
  },
  TriggerAuthentication: {
    model: TriggerAuthentication,
    module: '@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication',
  },
  ScaledObject: {
    model: ScaledObject,
    module: '@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject',
  },
} as const

type Kind = keyof typeof MODELS
export type ObjectOf<K extends Kind> = InstanceType<(typeof MODELS)[K]['model']>

export type Manifest = {
  readonly file: string
  readonly kind: Kind
  readonly name: string
  /** As written in the file. */
  readonly written: { readonly apiVersion: string; readonly metadata?: { readonly namespace?: string } }
  /** Throws where a field has a value that its schema does not know. */
  validate(): void
}

const FOLDER = new URL('../../docs/deploy/', import.meta.url)

export async function readManifests(): Promise<Manifest[]> {
  const files = (await readdir(new URL('kubernetes/', FOLDER)))
    .filter((file) => file.endsWith('.yaml'))
    .sort()
  const paths = [...files.map((file) => `kubernetes/${file}`), 'prometheus-adapter/hpa.yaml']
  const manifests = await Promise.all(
    paths.map(async (path) => (await readYaml(path)).map((written) => toManifest(path, written as Written))),
  )
  return manifests.flat()
}

/** Every document of a file below docs/deploy. */
export async function readYaml(path: string): Promise<unknown[]> {
  return parseAllDocuments(await readFile(new URL(path, FOLDER), 'utf8'), { strict: true }).map(
    (document) => {
      if (document.errors.length > 0) throw document.errors[0]
      return document.toJS() as unknown
    },
  )
}

type Written = Manifest['written'] & {
  readonly kind: Kind
  readonly metadata?: { readonly name?: string }
}

function toManifest(file: string, written: Written): Manifest {
  const { kind } = written
  if (!Object.hasOwn(MODELS, kind)) throw new Error(`${file}: a ${kind} is not known to the test`)
  return {
    file,
    kind,
    name: written.metadata?.name ?? '',
    written,
    validate: () => new MODELS[kind].model(written as never).validate(),
  }
}

/** A TypeScript program of all manifests as literals: the compiler refuses fields that their types do not have. */
export function asProgram(manifests: readonly Manifest[]): string {
  const imports = Object.entries(MODELS).map(
    ([kind, { module }]) => `import type { I${kind} } from '${module}'`,
  )
  const literals = manifests.map(
    ({ kind, name, written }, index) =>
      `// ${name}\nexport const object${index}: I${kind} = ${JSON.stringify(written, undefined, 2)}`,
  )
  return [...imports, ...literals].join('\n')
}

export function find<K extends Kind>(manifests: readonly Manifest[], kind: K, name: string): ObjectOf<K> {
  const found = manifests.find((manifest) => manifest.kind === kind && manifest.name === name)
  if (found === undefined) throw new Error(`there is no ${kind} ${name}`)
  return found.written as unknown as ObjectOf<K>
}

export type Pod = {
  readonly owner: string
  readonly spec: IPodSpec
  readonly container: IContainer
  readonly labels: Readonly<Record<string, string>>
}

/** What each Deployment and Job runs: one container each. */
export function podsOf(manifests: readonly Manifest[]): Pod[] {
  return manifests
    .filter(({ kind }) => kind === 'Deployment' || kind === 'Job')
    .map(({ kind, name }) => {
      const template = find(manifests, kind as 'Deployment' | 'Job', name).spec?.template
      const [container, ...others] = template?.spec?.containers ?? []
      if (template?.spec === undefined || container === undefined || others.length > 0) {
        throw new Error(`${name} does not have exactly one container`)
      }
      return { owner: name, spec: template.spec, container, labels: template.metadata?.labels ?? {} }
    })
}

/** The environment that the container starts with. `env` goes before `envFrom`, of which the last one counts. */
export function environmentOf(
  manifests: readonly Manifest[],
  { container }: Pod,
): Readonly<Record<string, string>> {
  const shared = (container.envFrom ?? []).map(({ configMapRef, secretRef }) =>
    configMapRef?.name === undefined
      ? find(manifests, 'Secret', secretRef?.name ?? '').stringData
      : find(manifests, 'ConfigMap', configMapRef.name).data,
  )
  const own = (container.env ?? []).map(({ name, value }) => [name, value ?? ''] as const)
  return Object.assign({}, ...shared, Object.fromEntries(own))
}
