//! The allow-list: what this node honours, by path.
//!
//! `[]` stands for every item, `**` for everything below, `=a|b` for the only values, `x*` for a beginning, of a
//! value or of a field's name.

/// (where the paths start, the paths).
pub(super) const LISTS: &[(&str, &str)] = &[
    ("", POD),
    ("", FOR_THE_SCHEDULER),
    ("", ONLY_TOLD),
    ("volumes.[]", VOLUME),
    ("containers.[]", CONTAINER),
    ("initContainers.[]", CONTAINER),
    ("containers.[].livenessProbe", PROBE),
    ("containers.[].readinessProbe", PROBE),
    ("containers.[].startupProbe", PROBE),
    ("containers.[].lifecycle.postStart", HOOK),
    ("containers.[].lifecycle.preStop", HOOK),
    // The API server lets only sidecars have these.
    ("initContainers.[].livenessProbe", PROBE),
    ("initContainers.[].readinessProbe", PROBE),
    ("initContainers.[].startupProbe", PROBE),
    ("initContainers.[].lifecycle.postStart", HOOK),
    ("initContainers.[].lifecycle.preStop", HOOK),
];

const POD: &str = "
    restartPolicy=Always|OnFailure|Never
    terminationGracePeriodSeconds
    activeDeadlineSeconds
    readinessGates.**
    dnsPolicy=ClusterFirst|ClusterFirstWithHostNet|Default|None
    dnsConfig.nameservers.[]
    dnsConfig.searches.[]
    dnsConfig.options.[].name
    dnsConfig.options.[].value
    hostNetwork
    hostPID
    hostIPC
    hostUsers=true
    shareProcessNamespace
    hostname
    subdomain
    setHostnameAsFQDN
    hostAliases.[].ip
    hostAliases.[].hostnames.[]
    enableServiceLinks
    imagePullSecrets.[].name
    serviceAccountName
    serviceAccount
    automountServiceAccountToken
    os.name=linux
    resources.requests.cpu
    resources.requests.memory
    resources.requests.hugepages-*
    resources.limits.cpu
    resources.limits.memory
    resources.limits.hugepages-*
    runtimeClassName
    overhead.cpu
    overhead.memory
    securityContext.runAsUser
    securityContext.runAsGroup
    securityContext.runAsNonRoot
    securityContext.fsGroup
    securityContext.fsGroupChangePolicy=Always|OnRootMismatch
    securityContext.supplementalGroups.[]
    securityContext.supplementalGroupsPolicy=Merge|Strict
    securityContext.seLinuxChangePolicy=MountOption|Recursive
    securityContext.sysctls.[].name
    securityContext.sysctls.[].value
    securityContext.seccompProfile.type=RuntimeDefault|Unconfined|Localhost
    securityContext.seccompProfile.localhostProfile
    securityContext.appArmorProfile.type=RuntimeDefault|Unconfined|Localhost
    securityContext.appArmorProfile.localhostProfile
    securityContext.seLinuxOptions.user
    securityContext.seLinuxOptions.role
    securityContext.seLinuxOptions.type
    securityContext.seLinuxOptions.level
";

/// Read by the scheduler and the controllers alone.
const FOR_THE_SCHEDULER: &str = "
    nodeName
    nodeSelector.**
    affinity.**
    tolerations.**
    topologySpreadConstraints.**
    schedulerName
    schedulingGates.**
    priority
    priorityClassName
    preemptionPolicy
    workloadRef.**
";

/// Not honoured, and yet no reason to leave a pod alone: they come to a pod that runs and cannot be taken back.
/// Their status says that they are not run.
const ONLY_TOLD: &str = "
    ephemeralContainers.**
";

const VOLUME: &str = "
    name
    emptyDir.medium=Memory
    emptyDir.sizeLimit
    hostPath.path
    hostPath.type=DirectoryOrCreate|Directory|FileOrCreate|File|Socket|CharDevice|BlockDevice
    configMap.name
    configMap.optional
    configMap.defaultMode
    configMap.items.[].key
    configMap.items.[].path
    configMap.items.[].mode
    secret.secretName
    secret.optional
    secret.defaultMode
    secret.items.[].key
    secret.items.[].path
    secret.items.[].mode
    downwardAPI.defaultMode
    downwardAPI.items.[].path
    downwardAPI.items.[].mode
    downwardAPI.items.[].fieldRef.apiVersion=v1
    downwardAPI.items.[].fieldRef.fieldPath=metadata.name|metadata.namespace|metadata.uid|metadata.labels*|metadata.annotations*
    downwardAPI.items.[].resourceFieldRef.containerName
    downwardAPI.items.[].resourceFieldRef.divisor
    downwardAPI.items.[].resourceFieldRef.resource=limits.cpu|limits.memory|limits.ephemeral-storage|limits.hugepages-*|requests.cpu|requests.memory|requests.ephemeral-storage|requests.hugepages-*
    projected.defaultMode
    projected.sources.[].configMap.name
    projected.sources.[].configMap.optional
    projected.sources.[].configMap.items.[].key
    projected.sources.[].configMap.items.[].path
    projected.sources.[].configMap.items.[].mode
    projected.sources.[].secret.name
    projected.sources.[].secret.optional
    projected.sources.[].secret.items.[].key
    projected.sources.[].secret.items.[].path
    projected.sources.[].secret.items.[].mode
    projected.sources.[].serviceAccountToken.audience
    projected.sources.[].serviceAccountToken.expirationSeconds
    projected.sources.[].serviceAccountToken.path
    projected.sources.[].downwardAPI.items.[].path
    projected.sources.[].downwardAPI.items.[].mode
    projected.sources.[].downwardAPI.items.[].fieldRef.apiVersion=v1
    projected.sources.[].downwardAPI.items.[].fieldRef.fieldPath=metadata.name|metadata.namespace|metadata.uid|metadata.labels*|metadata.annotations*
    projected.sources.[].downwardAPI.items.[].resourceFieldRef.containerName
    projected.sources.[].downwardAPI.items.[].resourceFieldRef.divisor
    projected.sources.[].downwardAPI.items.[].resourceFieldRef.resource=limits.cpu|limits.memory|limits.ephemeral-storage|limits.hugepages-*|requests.cpu|requests.memory|requests.ephemeral-storage|requests.hugepages-*
";

const CONTAINER: &str = "
    name
    image
    imagePullPolicy=Always|IfNotPresent|Never
    restartPolicy=Always|OnFailure|Never
    restartPolicyRules.[].action=Restart
    restartPolicyRules.[].exitCodes.operator=In|NotIn
    restartPolicyRules.[].exitCodes.values.[]
    command.[]
    args.[]
    workingDir
    stdin
    stdinOnce
    tty
    terminationMessagePath
    terminationMessagePolicy=File|FallbackToLogsOnError
    ports.[].name
    ports.[].containerPort
    ports.[].hostPort
    ports.[].hostIP
    ports.[].protocol=TCP|UDP|SCTP
    env.[].name
    env.[].value
    env.[].valueFrom.configMapKeyRef.name
    env.[].valueFrom.configMapKeyRef.key
    env.[].valueFrom.configMapKeyRef.optional
    env.[].valueFrom.secretKeyRef.name
    env.[].valueFrom.secretKeyRef.key
    env.[].valueFrom.secretKeyRef.optional
    env.[].valueFrom.fieldRef.apiVersion=v1
    env.[].valueFrom.fieldRef.fieldPath=metadata.name|metadata.namespace|metadata.uid|metadata.labels['*|metadata.annotations['*|spec.nodeName|spec.host|spec.serviceAccountName|status.hostIP|status.hostIPs|status.podIP|status.podIPs
    env.[].valueFrom.resourceFieldRef.containerName
    env.[].valueFrom.resourceFieldRef.divisor
    env.[].valueFrom.resourceFieldRef.resource=limits.cpu|limits.memory|limits.ephemeral-storage|limits.hugepages-*|requests.cpu|requests.memory|requests.ephemeral-storage|requests.hugepages-*
    envFrom.[].prefix
    envFrom.[].configMapRef.name
    envFrom.[].configMapRef.optional
    envFrom.[].secretRef.name
    envFrom.[].secretRef.optional
    resources.requests.cpu
    resources.requests.memory
    resources.requests.ephemeral-storage
    resources.requests.hugepages-*
    resources.limits.cpu
    resources.limits.memory
    resources.limits.ephemeral-storage
    resources.limits.hugepages-*
    resizePolicy.[].resourceName=cpu|memory
    resizePolicy.[].restartPolicy=NotRequired|RestartContainer
    volumeMounts.[].name
    volumeMounts.[].mountPath
    volumeMounts.[].readOnly
    volumeMounts.[].recursiveReadOnly=Disabled|IfPossible|Enabled
    volumeMounts.[].subPath
    volumeMounts.[].subPathExpr
    volumeMounts.[].mountPropagation=None|HostToContainer|Bidirectional
    securityContext.capabilities.add.[]
    securityContext.capabilities.drop.[]
    securityContext.privileged
    securityContext.runAsUser
    securityContext.runAsGroup
    securityContext.runAsNonRoot
    securityContext.readOnlyRootFilesystem
    securityContext.allowPrivilegeEscalation
    securityContext.procMount=Default|Unmasked
    securityContext.seccompProfile.type=RuntimeDefault|Unconfined|Localhost
    securityContext.seccompProfile.localhostProfile
    securityContext.appArmorProfile.type=RuntimeDefault|Unconfined|Localhost
    securityContext.appArmorProfile.localhostProfile
    securityContext.seLinuxOptions.user
    securityContext.seLinuxOptions.role
    securityContext.seLinuxOptions.type
    securityContext.seLinuxOptions.level
";

const PROBE: &str = "
    initialDelaySeconds
    periodSeconds
    timeoutSeconds
    successThreshold
    failureThreshold
    terminationGracePeriodSeconds
    exec.command.[]
    httpGet.path
    httpGet.port
    httpGet.host
    httpGet.scheme=HTTP|HTTPS
    httpGet.httpHeaders.[].name
    httpGet.httpHeaders.[].value
    tcpSocket.port
    tcpSocket.host
    grpc.port
    grpc.service
";

/// `tcpSocket` is honoured as the kubelet does: it always fails.
const HOOK: &str = "
    exec.command.[]
    httpGet.path
    httpGet.port
    httpGet.host
    httpGet.scheme=HTTP|HTTPS
    httpGet.httpHeaders.[].name
    httpGet.httpHeaders.[].value
    sleep.seconds
    tcpSocket.port
    tcpSocket.host
";
