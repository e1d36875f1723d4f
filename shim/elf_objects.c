/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables: System V ABI, chapter 5 (DT_HASH); "GNU hash" as in the loader's own elf/dl-lookup.c: a Bloom filter, buckets of
 * the lowest symbol's number, chains of hash values whose lowest bit marks the last. */
#include "shim/elf_objects.h"

#include <sys/auxv.h>

#define HIDDEN_VERSION 0x8000 /* in a version number: not the default one */

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden"))); /* of this object, from the linker */

/* The loader adds the base to the pointers of the dynamic section, but where that can't be written to (vdso). */
static const void *table_at(const struct shim_object *object, ElfW(Addr) value)
{
    return (const void *)(value < object->base ? value + object->base : value);
}

static void read_dynamic(struct shim_object *object, const ElfW(Dyn) * dynamic)
{
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        switch (dynamic->d_tag) {
        case DT_SYMTAB:
            object->symbols = table_at(object, dynamic->d_un.d_ptr);
            break;
        case DT_STRTAB:
            object->strings = table_at(object, dynamic->d_un.d_ptr);
            break;
        case DT_GNU_HASH:
            object->gnu_hash = table_at(object, dynamic->d_un.d_ptr);
            break;
        case DT_HASH:
            object->hash = table_at(object, dynamic->d_un.d_ptr);
            break;
        case DT_VERSYM:
            object->versions = table_at(object, dynamic->d_un.d_ptr);
            break;
        default:
            break;
        }
    }
}

struct walk {
    bool (*visit)(const struct shim_object *object, void *user);
    void *user;
    size_t n_objects;
};

static int visit_object(struct dl_phdr_info *info, size_t size, void *user)
{
    struct walk *walk = user;
    struct shim_object object = {
        .base = info->dlpi_addr,
        .start = UINTPTR_MAX,
        .path = info->dlpi_name ? info->dlpi_name : "",
        .segments = info->dlpi_phdr,
        .n_segments = info->dlpi_phnum,
        .is_program = walk->n_objects++ == 0,
    };
    const ElfW(Dyn) *dynamic = NULL;
    for (size_t i = 0; i < object.n_segments; i++) {
        const ElfW(Phdr) *segment = &object.segments[i];
        uintptr_t start = object.base + segment->p_vaddr;
        if (segment->p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)start;
        if (segment->p_type != PT_LOAD)
            continue;
        object.start = start < object.start ? start : object.start;
        object.end = start + segment->p_memsz > object.end ? start + segment->p_memsz : object.end;
    }
    if (dynamic)
        read_dynamic(&object, dynamic);
    uintptr_t here = (uintptr_t)&__ehdr_start;
    object.is_shim = !object.is_program && here >= object.start && here < object.end;
    return walk->visit(&object, walk->user);
}

void shim_elf_each(bool (*visit)(const struct shim_object *object, void *user), void *user)
{
    struct walk walk = {.visit = visit, .user = user};
    dl_iterate_phdr(visit_object, &walk);
}

static int read_changes(struct dl_phdr_info *info, size_t size, void *user)
{
    struct shim_elf_changes *changes = user;
    changes->n_loaded = info->dlpi_adds;
    changes->n_unloaded = info->dlpi_subs;
    return 1;
}

struct shim_elf_changes shim_elf_changes(void)
{
    struct shim_elf_changes changes = {0};
    dl_iterate_phdr(read_changes, &changes);
    return changes;
}

static void *address_of(const struct shim_object *object, const ElfW(Sym) * symbol)
{
    void *address = (void *)(object->base + symbol->st_value);
    if (ELF64_ST_TYPE(symbol->st_info) != STT_GNU_IFUNC)
        return address;
#if defined(__aarch64__)
    return ((void *(*)(uint64_t))address)(getauxval(AT_HWCAP));
#else
    return ((void *(*)(void))address)();
#endif
}

/* strcmp() of a sanitizer's runtime, say, is not to be called before that is ready. */
static bool equal(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static bool defines(const struct shim_object *object, size_t number, const char *name)
{
    const ElfW(Sym) *symbol = &object->symbols[number];
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    unsigned binding = ELF64_ST_BIND(symbol->st_info);
    if (symbol->st_shndx == SHN_UNDEF || symbol->st_value == 0 || binding == STB_LOCAL)
        return false;
    if (type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE && type != STT_GNU_IFUNC)
        return false;
    if (object->versions && (object->versions[number] & HIDDEN_VERSION))
        return false;
    return equal(object->strings + symbol->st_name, name);
}

static void *find_by_gnu_hash(const struct shim_object *object, const char *name)
{
    const uint32_t *table = object->gnu_hash;
    uint32_t n_buckets = table[0], first = table[1], n_bloom = table[2], shift = table[3];
    const ElfW(Addr) *bloom = (const ElfW(Addr) *)(table + 4);
    const uint32_t *buckets = (const uint32_t *)(bloom + n_bloom);
    const uint32_t *chains = buckets + n_buckets;
    uint32_t hash = 5381;
    for (const char *at = name; *at; at++)
        hash = hash * 33 + (unsigned char)*at;
    enum { WORD = 8 * sizeof(ElfW(Addr)) };
    if (n_buckets == 0 || n_bloom == 0)
        return NULL;
    ElfW(Addr) word = bloom[hash / WORD % n_bloom];
    if (!(word >> (hash % WORD) & word >> ((hash >> shift) % WORD) & 1))
        return NULL;
    uint32_t number = buckets[hash % n_buckets];
    if (number < first)
        return NULL;
    for (;; number++) {
        uint32_t value = chains[number - first];
        if ((value | 1) == (hash | 1) && defines(object, number, name))
            return address_of(object, &object->symbols[number]);
        if (value & 1)
            return NULL;
    }
}

static void *find_by_hash(const struct shim_object *object, const char *name)
{
    const uint32_t *table = object->hash;
    uint32_t n_buckets = table[0];
    const uint32_t *buckets = table + 2, *chains = buckets + n_buckets;
    uint32_t hash = 0;
    for (const char *at = name; *at; at++) {
        hash = (hash << 4) + (unsigned char)*at;
        hash = (hash ^ (hash >> 24 & 0xf0)) & 0x0fffffff;
    }
    if (n_buckets == 0)
        return NULL;
    for (uint32_t number = buckets[hash % n_buckets]; number != STN_UNDEF; number = chains[number]) {
        if (defines(object, number, name))
            return address_of(object, &object->symbols[number]);
    }
    return NULL;
}

void *shim_elf_symbol(const struct shim_object *object, const char *name)
{
    if (!object->symbols || !object->strings)
        return NULL;
    if (object->gnu_hash)
        return find_by_gnu_hash(object, name);
    return object->hash ? find_by_hash(object, name) : NULL;
}

size_t shim_elf_n_symbols(const struct shim_object *object)
{
    if (!object->symbols || !object->strings)
        return 0;
    if (object->hash)
        return object->hash[1];
    if (!object->gnu_hash)
        return 0;
    const uint32_t *table = object->gnu_hash;
    uint32_t n_buckets = table[0], first = table[1], n_bloom = table[2];
    const uint32_t *buckets = (const uint32_t *)((const ElfW(Addr) *)(table + 4) + n_bloom);
    const uint32_t *chains = buckets + n_buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < n_buckets; i++)
        last = buckets[i] > last ? buckets[i] : last;
    if (last < first)
        return first;
    while (!(chains[last - first] & 1))
        last++;
    return (size_t)last + 1;
}

/* The kernel's own object has functions for the C library's use; dlsym doesn't look there. */
static bool is_vdso(const char *path)
{
    return equal(path, "linux-vdso.so.1");
}

/* The objects of the start, from the loader's list for debuggers: others are at its end. */
static void *find_from_start(const char *name, bool after_shim)
{
    bool reached = !after_shim;
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next) {
        if (map->l_ld == _DYNAMIC && map != _r_debug.r_map) {
            reached = true;
            continue;
        }
        if (!reached || is_vdso(map->l_name))
            continue;
        struct shim_object object = {.base = map->l_addr};
        read_dynamic(&object, map->l_ld);
        void *found = shim_elf_symbol(&object, name);
        if (found)
            return found;
    }
    return NULL;
}

void *shim_elf_next(const char *name)
{
    return find_from_start(name, true);
}

void *shim_elf_first(const char *name)
{
    return find_from_start(name, false);
}

struct search {
    const char *name;
    void *found;
};

static bool search_object(const struct shim_object *object, void *user)
{
    struct search *search = user;
    search->found = object->is_shim || is_vdso(object->path) ? NULL : shim_elf_symbol(object, search->name);
    return search->found != NULL;
}

void *shim_elf_any(const char *name)
{
    struct search search = {.name = name};
    shim_elf_each(search_object, &search);
    return search.found;
}

struct place {
    uintptr_t address;
    struct shim_object *object;
    bool found;
};

static bool holds_address(const struct shim_object *object, void *user)
{
    struct place *place = user;
    if (place->address < object->start || place->address >= object->end)
        return false;
    for (size_t i = 0; i < object->n_segments && !place->found; i++) {
        const ElfW(Phdr) *segment = &object->segments[i];
        place->found = segment->p_type == PT_LOAD && place->address - object->base >= segment->p_vaddr &&
                       place->address - object->base - segment->p_vaddr < segment->p_memsz;
    }
    if (place->found)
        *place->object = *object;
    return place->found;
}

bool shim_elf_at(const void *address, struct shim_object *object)
{
    struct place place = {.address = (uintptr_t)address, .object = object};
    shim_elf_each(holds_address, &place);
    return place.found;
}
