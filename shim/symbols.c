/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/symbols.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct symbol_table {
    const ElfW(Sym) * symbols;
    size_t n_symbols;
    const char *strings;
    size_t strings_bytes;
};

/* The symbol whose extent holds offset from the object's base. NULL: none. */
static const char *name_in(const struct symbol_table *table, uintptr_t offset)
{
    for (size_t i = 0; i < table->n_symbols; i++) {
        const ElfW(Sym) *symbol = &table->symbols[i];
        unsigned type = ELF64_ST_TYPE(symbol->st_info);
        if ((type == STT_FUNC || type == STT_GNU_IFUNC) && symbol->st_shndx != SHN_UNDEF &&
            offset >= symbol->st_value && offset - symbol->st_value < symbol->st_size &&
            symbol->st_name < table->strings_bytes)
            return table->strings + symbol->st_name;
    }
    return NULL;
}

struct file {
    const char *bytes;
    size_t n_bytes;
};

static bool within(const struct file *file, uint64_t offset, uint64_t bytes)
{
    return offset <= file->n_bytes && bytes <= file->n_bytes - offset;
}

static bool is_loaded_one(const struct file *file, const struct shim_object *object)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)file->bytes;
    return within(file, 0, sizeof *header) && memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
           header->e_phnum == object->n_segments && header->e_phentsize == sizeof(ElfW(Phdr)) &&
           within(file, header->e_phoff, header->e_phnum * sizeof(ElfW(Phdr))) &&
           memcmp(file->bytes + header->e_phoff, object->segments, header->e_phnum * sizeof(ElfW(Phdr))) == 0;
}

static bool find_symtab(const struct file *file, struct symbol_table *table)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)file->bytes;
    if (header->e_shentsize != sizeof(ElfW(Shdr)) || header->e_shoff % sizeof(uint64_t) != 0 ||
        !within(file, header->e_shoff, header->e_shnum * sizeof(ElfW(Shdr))))
        return false;
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(file->bytes + header->e_shoff);
    for (size_t i = 0; i < header->e_shnum; i++) {
        const ElfW(Shdr) *section = &sections[i];
        if (section->sh_type != SHT_SYMTAB || section->sh_link >= header->e_shnum)
            continue;
        const ElfW(Shdr) *strings = &sections[section->sh_link];
        if (!within(file, section->sh_offset, section->sh_size) || section->sh_offset % sizeof(uint64_t) != 0 ||
            !within(file, strings->sh_offset, strings->sh_size) || strings->sh_size == 0 ||
            file->bytes[strings->sh_offset + strings->sh_size - 1] != '\0')
            return false;
        *table = (struct symbol_table){
            .symbols = (const ElfW(Sym) *)(file->bytes + section->sh_offset),
            .n_symbols = section->sh_size / sizeof(ElfW(Sym)),
            .strings = file->bytes + strings->sh_offset,
            .strings_bytes = strings->sh_size,
        };
        return true;
    }
    return false;
}

/* Maps the object's file and finds its symbol table; file is to be unmapped. */
static bool open_symtab(const struct shim_object *object, struct file *file, struct symbol_table *table)
{
    if (!object->is_program && object->path[0] != '/')
        return false; /* the vdso; or loaded by a relative path, and the folder may be another one now */
    int fd = open(object->is_program ? "/proc/self/exe" : object->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct stat status;
    void *bytes = MAP_FAILED;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0)
        bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED)
        return false;
    *file = (struct file){.bytes = bytes, .n_bytes = (size_t)status.st_size};
    if (is_loaded_one(file, object) && find_symtab(file, table))
        return true;
    munmap(bytes, file->n_bytes);
    return false;
}

bool shim_symbols_name(const void *address, char *name, size_t size)
{
    struct shim_object object;
    if (!shim_elf_at(address, &object))
        return false;
    uintptr_t offset = (uintptr_t)address - object.base;
    struct symbol_table table = {
        .symbols = object.symbols,
        .n_symbols = shim_elf_n_symbols(&object),
        .strings = object.strings,
        .strings_bytes = SIZE_MAX,
    };
    const char *found = name_in(&table, offset);
    if (found) {
        snprintf(name, size, "%s", found);
        return true;
    }
    struct file file;
    if (!open_symtab(&object, &file, &table))
        return false;
    found = name_in(&table, offset);
    if (found)
        snprintf(name, size, "%s", found);
    munmap((void *)file.bytes, file.n_bytes);
    return found != NULL;
}

bool shim_symbols_file_has(const struct shim_object *object, const char *text)
{
    struct file file;
    struct symbol_table table;
    if (!open_symtab(object, &file, &table))
        return false;
    bool has = memmem(table.strings, table.strings_bytes, text, strlen(text)) != NULL;
    munmap((void *)file.bytes, file.n_bytes);
    return has;
}
