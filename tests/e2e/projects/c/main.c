#include <stdio.h>
int sum(int, int);
int main(void) { printf("%d\n", sum(40, 2)); return 0; }
