/*
 * Whether this is built with a sanitizer, under which everything takes ten times as long: a test
 * that does the same thing at many places does it at fewer of them.
 */
#ifndef REPL_TEST_SANITIZED_H
#define REPL_TEST_SANITIZED_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED true
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

#endif
