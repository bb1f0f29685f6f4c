/* Upper, lower and title case of whole strings, and the questions about case, as Python's str
 * methods answer them (Unicode's full mappings, SpecialCasing.txt included). */
#ifndef ATTNSCOPE_ENGINE_TEXT_JINJA_CASING_H
#define ATTNSCOPE_ENGINE_TEXT_JINJA_CASING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jinja_run;
struct jinja_builder;

enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_CAPITALIZE, JINJA_SWAP };

/* Appends s [n bytes] in the given case.  Title begins a word after each character without case,
 * capitalize only at the start. */
void jinja_put_cased(struct jinja_builder *b, const char *s, size_t n, enum jinja_case to);

/* isupper, islower: at least one cased character and none of the other case. */
bool jinja_is_upper(const char *s, size_t n);
bool jinja_is_lower(const char *s, size_t n);

/* One code point. */
bool jinja_is_alpha(uint32_t c);
bool jinja_is_digit(uint32_t c);
bool jinja_is_alnum(uint32_t c);

#endif
