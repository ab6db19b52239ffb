// Compiles src/ to one component, dist/support-agent.wasm. Top-level code runs here, once; instances start from its snapshot.
// componentize-js loads preview2-shim without naming it as a dependency, so package.json does.
import { mkdir, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const { component, imports } = await componentize({
  sourcePath: 'src/main.js',
  witPath: 'wit',
  worldName: 'agent',
});
await mkdir('dist', { recursive: true });
await writeFile('dist/support-agent.wasm', component);
console.log(`dist/support-agent.wasm: ${(component.length / 1048576).toFixed(1)} MiB, ${imports.length} imported functions`);
