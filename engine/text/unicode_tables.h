/* Where the reference's Unicode data differs from that of the libraries linked here.
 *
 * The `tokenizers` library, whose ids must be met exactly, holds several versions of Unicode:
 * version 16 in its regular expressions, 12 in its normal forms, 8 in its punctuation, 17 in
 * numbers and letter case.  Oniguruma 6.9.8 holds 14, utf8proc 2.8 holds 15.  These tables are the
 * difference; char_class.h is how to ask.  Every table is sorted, its ranges do not overlap. */
#ifndef ATTNSCOPE_ENGINE_TEXT_UNICODE_TABLES_H
#define ATTNSCOPE_ENGINE_TEXT_UNICODE_TABLES_H

#include <stdint.h>

struct code_range {
    uint32_t first, last; /* code points, both included */
    int32_t value;
};

/* Newer than Unicode 14; value is an older code point that a regular expression treats alike:
 * the same general category, script Han, Alphabetic and length in UTF-8. */
extern const struct code_range unicode_stand_ins[];
extern const int unicode_stand_ins_n;
/* Up to Unicode 14, but without decomposition, composition or reordering in the reference. */
extern const struct code_range unicode_no_normal_form[];
extern const int unicode_no_normal_form_n;
/* Numbers newer than Unicode 14. */
extern const struct code_range unicode_newer_numbers[];
extern const int unicode_newer_numbers_n;
/* General category P, but newer than the reference knows. */
extern const struct code_range unicode_not_punctuation[];
extern const int unicode_not_punctuation_n;
/* Punctuation to the reference, of another category today. */
extern const struct code_range unicode_old_punctuation[];
extern const int unicode_old_punctuation_n;
/* Capital letters newer than Unicode 14; value is what to add for the small letter. */
extern const struct code_range unicode_newer_lowercase[];
extern const int unicode_newer_lowercase_n;

#endif
