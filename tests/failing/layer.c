/* A Vulkan layer that makes one call of the driver fail: what a test puts between wgpu and a driver that works.
 *
 *   cc -shared -fPIC -Wl,-z,nodelete -o layer.so layer.c
 *   VK_LAYER_PATH=HERE VK_INSTANCE_LAYERS=VK_LAYER_diffuse_failing DIFFUSE_FAIL=vkWaitSemaphores:-4:20,35 diffuse ...
 *
 * DIFFUSE_FAIL is CALL:RESULT:WHICH: the 20th and the 35th call of that name, counted over the whole process, give RESULT
 * (-1 no host memory, -2 no device memory, -4 device lost, 2 time is up). A device that was lost stays so: all that waits for it or
 * hands work to it says the same from then on, and what it was at is done first: a device that is lost works no more. DIFFUSE_COUNT=FILE has the number of calls of each name written there at the end.
 *
 * Types are declared here, so that no header has to be installed. All arguments of all calls below are integers and pointers,
 * at most six: they are handed on as they came.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uintptr_t word;
typedef int32_t result;
typedef result (*call)(word, word, word, word, word, word);
typedef void *(*lookup)(word, const char *);

/* What all structures of Vulkan begin with; behind it, in those of the loader, the chain of layers. */
struct link {
    struct link *next;
    lookup instance_lookup, device_lookup;
};
struct chained {
    int32_t type;
    struct chained *next;
    int32_t function;
    struct link *link;
};
enum { INSTANCE = 47, DEVICE = 48, DEVICE_LOST = -4 };

/* Calls that can fail: those of a device that say when it is lost, the others of it, those before it. */
#define LOSING(F)                                                                                                              \
    F(vkQueueSubmit) F(vkQueueWaitIdle) F(vkDeviceWaitIdle) F(vkWaitSemaphores) F(vkWaitSemaphoresKHR)                         \
    F(vkGetSemaphoreCounterValue) F(vkGetSemaphoreCounterValueKHR) F(vkWaitForFences) F(vkGetFenceStatus)
#define FAILING(F)                                                                                                             \
    F(vkAllocateMemory) F(vkMapMemory) F(vkFlushMappedMemoryRanges) F(vkInvalidateMappedMemoryRanges) F(vkBindBufferMemory)    \
    F(vkCreateBuffer) F(vkCreateFence) F(vkCreateSemaphore) F(vkCreateQueryPool) F(vkCreateShaderModule)                       \
    F(vkCreatePipelineLayout) F(vkCreateComputePipelines) F(vkCreateDescriptorSetLayout) F(vkCreateDescriptorPool)             \
    F(vkAllocateDescriptorSets) F(vkCreateCommandPool) F(vkResetCommandPool) F(vkAllocateCommandBuffers)                       \
    F(vkBeginCommandBuffer) F(vkEndCommandBuffer)

enum {
#define NUMBER(name) N_##name,
    LOSING(NUMBER) LOSERS, BEHIND_LOSERS = LOSERS - 1, FAILING(NUMBER) N_vkCreateInstance, N_vkCreateDevice,
    N_vkEnumeratePhysicalDevices, ALL
};

static const char *names[ALL] = {
#define NAME(name) [N_##name] = #name,
    LOSING(NAME) FAILING(NAME) NAME(vkCreateInstance) NAME(vkCreateDevice) NAME(vkEnumeratePhysicalDevices)};
static call nexts[ALL];
static unsigned counts[ALL];
static lookup instance_lookup, device_lookup;
static word instance;
static word lost[64];
static word newest_device;

static void write_counts(void) {
    FILE *file = fopen(getenv("DIFFUSE_COUNT"), "w");
    for (int i = 0; file && i < ALL; i++)
        if (counts[i]) fprintf(file, "%s %u\n", names[i], counts[i]);
    if (file) fclose(file);
}

__attribute__((constructor)) static void begin(void) {
    if (getenv("DIFFUSE_COUNT")) atexit(write_counts);
}

/* Whether this is one of the calls that shall fail, and how. */
static int fails(int number, result *how) {
    unsigned count = __atomic_add_fetch(&counts[number], 1, __ATOMIC_SEQ_CST);
    const char *wish = getenv("DIFFUSE_FAIL");
    size_t length = strlen(names[number]);
    if (!wish || strncmp(wish, names[number], length) || wish[length] != ':') return 0;
    char *rest;
    *how = (result)strtol(wish + length + 1, &rest, 10);
    while (*rest == ':' || *rest == ',')
        if (strtoul(rest + 1, &rest, 10) == count) return 1;
    return 0;
}

/* The loader's table of a device is that of its queues and command buffers, too. */
static word device_of(word handle) { return *(word *)handle; }

static int is_lost(word device) {
    for (int i = 0; i < 64; i++)
        if (__atomic_load_n(&lost[i], __ATOMIC_SEQ_CST) == device) return 1;
    return 0;
}

static void lose(word device) {
    ((call)device_lookup(newest_device, "vkDeviceWaitIdle"))(newest_device, 0, 0, 0, 0, 0);
    for (int i = 0; i < 64; i++) {
        word none = 0;
        if (__atomic_compare_exchange_n(&lost[i], &none, device, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
    }
}

static result hand_on(int number, word a, word b, word c, word d, word e, word f) {
    result how;
    if (number < LOSERS && is_lost(device_of(a))) return DEVICE_LOST;
    if (fails(number, &how)) {
        fprintf(stderr, "layer: %s gives %d\n", names[number], how);
        if (how == DEVICE_LOST && number < N_vkCreateInstance) lose(device_of(a));
        return how;
    }
    return nexts[number](a, b, c, d, e, f);
}

#define WRAP(name)                                                                                                             \
    static result own_##name(word a, word b, word c, word d, word e, word f) { return hand_on(N_##name, a, b, c, d, e, f); }
LOSING(WRAP) FAILING(WRAP) WRAP(vkEnumeratePhysicalDevices)

static struct chained *chain(word info, int type) {
    struct chained *own = ((struct chained *)info)->next;
    while (own && !(own->type == type && own->function == 0)) own = own->next;
    return own;
}

static result own_vkCreateInstance(word info, word allocator, word made) {
    struct chained *own = chain(info, INSTANCE);
    result how;
    if (!own || fails(N_vkCreateInstance, &how)) return own ? how : -3;
    instance_lookup = own->link->instance_lookup;
    own->link = own->link->next;
    result done = ((call)instance_lookup(0, "vkCreateInstance"))(info, allocator, made, 0, 0, 0);
    instance = *(word *)made;
    return done;
}

static result own_vkCreateDevice(word physical, word info, word allocator, word made) {
    struct chained *own = chain(info, DEVICE);
    result how;
    if (!own || fails(N_vkCreateDevice, &how)) return own ? how : -3;
    lookup of_instances = own->link->instance_lookup;
    device_lookup = own->link->device_lookup;
    own->link = own->link->next;
    result done = ((call)of_instances(instance, "vkCreateDevice"))(physical, info, allocator, made, 0, 0);
    newest_device = *(word *)made;
    /* Its table may lie where that of a lost one lay. */
    for (int i = 0; done == 0 && i < 64; i++)
        if (lost[i] == device_of(*(word *)made)) lost[i] = 1;
    return done;
}

static const struct {
    int number;
    void *own;
} wrappers[] = {
#define WRAPPER(name) {N_##name, (void *)own_##name},
    LOSING(WRAPPER) FAILING(WRAPPER) WRAPPER(vkEnumeratePhysicalDevices) WRAPPER(vkCreateInstance) WRAPPER(vkCreateDevice)};

/* What stands for `name`, if `next`, which comes behind it, has it. */
static void *wrapped(const char *name, void *next) {
    for (unsigned i = 0; i < sizeof wrappers / sizeof *wrappers; i++) {
        int number = wrappers[i].number;
        if (strcmp(names[number], name)) continue;
        int makes = number == N_vkCreateInstance || number == N_vkCreateDevice;
        if (next && !makes) nexts[number] = (call)next;
        return next || makes ? wrappers[i].own : 0;
    }
    return next;
}

__attribute__((visibility("default"))) void *vkGetDeviceProcAddr(word device, const char *name) {
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (void *)vkGetDeviceProcAddr;
    return wrapped(name, device_lookup(device, name));
}

__attribute__((visibility("default"))) void *vkGetInstanceProcAddr(word of, const char *name) {
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (void *)vkGetInstanceProcAddr;
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (void *)vkGetDeviceProcAddr;
    /* The lookup of an instance before this one may be gone. */
    if (!strcmp(name, "vkCreateInstance")) return (void *)own_vkCreateInstance;
    void *next = instance_lookup && of ? instance_lookup(of, name) : 0;
    return wrapped(name, next);
}
